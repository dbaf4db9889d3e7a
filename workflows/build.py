"""Writes the shared workflows: TITLE.json to drag into ComfyUI, api/NAME.json to post to a server,
../subgraphs/TITLE.json for ComfyUI's node library.

    python workflows/build.py            write both forms of every workflow
    python workflows/build.py --check    write nothing; fail when a file is not what would be written
    python workflows/build.py --definitions http://127.0.0.1:8188
                                         first read the nodes' inputs and outputs from a running ComfyUI with this pack;
                                         take the oldest supported one: newer pages open older workflows, not vice versa

Standard library only. Settings are Pusa's published ones (10 steps are enough, says its table of ablations).
"""

from __future__ import annotations

import sys
from pathlib import Path

from blueprints import blueprints, page_blueprint
from catalogue import workflows
from litegraph import as_json, page_workflow, read_definitions

HERE = Path(__file__).resolve().parent
SUBGRAPHS = HERE.parent / "subgraphs"


def files() -> dict[Path, str]:
    """Everything that this program writes."""
    result = {}
    for workflow in workflows():
        result[HERE / f"{workflow.title}.json"] = as_json(page_workflow(workflow))
        result[HERE / "api" / f"{workflow.name}.json"] = as_json(workflow.prompt())
    for blueprint in blueprints():
        result[SUBGRAPHS / f"{blueprint.title}.json"] = as_json(page_blueprint(blueprint))
    return result


def check() -> None:
    wanted = files()
    existing = {*HERE.glob("*.json"), *(HERE / "api").glob("*.json"), *SUBGRAPHS.glob("*.json")}
    stale = [p for p, text in wanted.items() if p not in existing or p.read_text(encoding="utf-8") != text]
    wrong = sorted(path.relative_to(HERE.parent).as_posix() for path in {*stale, *existing - set(wanted)})
    if wrong:
        sys.exit(f"Not what the builder writes: {', '.join(wrong)}. Run: python workflows/build.py")


def main(arguments: list[str]) -> None:
    if arguments == ["--check"]:
        return check()
    if arguments[:1] == ["--definitions"] and len(arguments) == 2:
        read_definitions(arguments[1])
    elif arguments:
        sys.exit(__doc__)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
