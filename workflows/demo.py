"""Makes four clips with the shared workflows on a real ComfyUI: python3 workflows/demo.py [output folder]

Sets up its environment like tests/run.py, starts ComfyUI with this pack, runs image to video, start-end, extension and
text to video on the small model that comes with the pack, and leaves videos and schedule pictures in demo_output/.
Without a ComfyUI it draws the schedules only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PACK))
DEMOS = ("demo_image_to_video", "demo_start_end", "demo_extension", "demo_text_to_video")


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0] if arguments else "demo_output").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    from pusa_core.hosts.comfyui_folder import find_comfyui, how_to_get

    comfyui = find_comfyui()
    if comfyui is None:
        print(f"No ComfyUI was found, so the schedules are drawn without making videos. {how_to_get()}")
        made = draw_schedules(folder)
    else:
        made = run_workflows(comfyui, folder)
    print("Made:", *(f"  {path}" for path in made), sep="\n")
    return 0


def run_workflows(comfyui: Path, folder: Path) -> list[Path]:
    """Runs the demos on a ComfyUI of their own and collects what they made."""
    from tests.server.server import ComfyServer

    server, made = ComfyServer(comfyui), []
    print(f"Starting ComfyUI from {comfyui}", flush=True)
    with server:
        for number, name in enumerate(DEMOS, 1):
            start = time.monotonic()
            print(f"[{number}/{len(DEMOS)}] {name}", end=" ", flush=True)
            prompt = json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
            run = server.run(prompt)
            for path in run.files:
                made.append(
                    Path(shutil.copyfile(path, folder / f"{name}{'_schedule' * (path.suffix == '.png')}{path.suffix}"))
                )
            print(f"{time.monotonic() - start:.1f} s", flush=True)
    return made


def draw_schedules(folder: Path) -> list[Path]:
    """The published tasks' schedules as pictures, by the core alone."""
    from PIL import Image

    from pusa_core.picture import draw_schedule
    from pusa_core.schedule import FrameMap, FrameSchedule, pusa_sigmas

    tasks = {
        "image_to_video": {0: 0.2},
        "start_end": {0: 0.2, 20: 0.5},
        "extension": dict(enumerate((0.0, 0.3, 0.4, 0.5))),
        "text_to_video": {},
    }
    made = []
    for name, multipliers in tasks.items():
        schedule = FrameSchedule.build(21, {frame: FrameMap.line(m) for frame, m in multipliers.items()})
        picture = draw_schedule(schedule, pusa_sigmas(10).tolist(), [f"{name}: {schedule.to_json()}"])
        made.append(folder / f"{name}_schedule.png")
        Image.fromarray((picture[0].numpy() * 255).astype("uint8")).save(made[-1])
    return made


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepared"]:
        sys.exit(main(sys.argv[2:]))
    sys.path.insert(0, str(PACK / "tests"))
    import run as setup

    sys.exit(subprocess.call([str(setup.python_for(setup.find_comfyui())), __file__, "--prepared", *sys.argv[1:]]))
