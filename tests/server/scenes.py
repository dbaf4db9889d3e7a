"""Writes the README's pictures of ComfyUI's page: python -m tests.server.scenes [templates] [app] [language]

The template browser with the pack's workflows; one of them as an app, and in a second language, both after a run of the
demo model. Needs a ComfyUI with an app mode, Chromium, a font with Chinese letters, and about two minutes. With --to
FOLDER they go there.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from environment.comfyui import PACK, find_comfyui
from environment.server import PACK_NAME, ComfyServer
from tests.server.page import EMPTY, Page, open_page
from tests.server.screenshots import QUIET, save
from tests.server.shared import TITLES, graph_of

FOLDER = PACK / "web" / "pictures"
MOST_BYTES = 60_000
WIDTH, HEIGHT = 1500, 900
SIDE = 1000  # pixels of width in the README
SHOWN = "demo_start_end"
TO_TIMELINE = """() => {
  const node = app.graph.nodes.find(node => node.type === "PusaTimeline");
  app.canvas.selectItems([node]);
  app.canvas.ds.scale = 1.1;
  app.canvas.ds.offset = [75 - node.pos[0], 165 - node.pos[1]];
}"""


def templates(page: Page, server: ComfyServer) -> None:
    """The pack's own templates, sorted by name: those that need no download come first."""
    browser = page.browser_page
    browser.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    browser.get_by_text(PACK_NAME, exact=True).first.click()
    browser.wait_for_timeout(2500)


def as_app(page: Page, server: ComfyServer) -> None:
    """Start and end image as an app: a form with the timeline, the prompt, the number of frames and the seed."""
    run(page, server, linearMode=True)
    page.browser_page.keyboard.press("Escape")  # the page's own welcome
    page.browser_page.wait_for_timeout(1500)


def language(page: Page, server: ComfyServer) -> None:
    """The same workflow in Chinese, with the help of its timeline."""
    run(page, server)
    browser = page.browser_page
    browser.evaluate(TO_TIMELINE)
    browser.wait_for_selector('[data-testid="info-button"]').evaluate("button => button.click()")
    browser.wait_for_timeout(2500)


@dataclass(frozen=True)
class Scene:
    """What is done in the page for a picture, under which settings, and the part of it that is shown."""

    play: Callable[[Page, ComfyServer], None]
    settings: dict[str, object] = field(default_factory=dict)
    part: str = "body"  # a selector


SCENES = {
    "templates": Scene(templates, {"Comfy.Templates.SortBy": "alphabetical"}, "[role=dialog]"),
    "app": Scene(as_app),
    "language": Scene(language, {"Comfy.Locale": "zh"}),
}


def run(page: Page, server: ComfyServer, **extra: object) -> None:
    """Opens a template and runs it."""
    graph = graph_of(SHOWN)
    page.load({**graph, "extra": {**graph["extra"], **extra}}, TITLES[SHOWN])
    page.browser_page.evaluate("app.queuePrompt(0)")
    while not server.get("/history"):
        page.browser_page.wait_for_timeout(500)
    page.browser_page.wait_for_timeout(2500)


def shoot(scene: Scene, comfyui: Path) -> Image.Image:
    with ComfyServer(comfyui) as server:
        for name, value in {**QUIET, **scene.settings}.items():
            server.post(f"/settings/{name}", value)
        with open_page(server.address, WIDTH, HEIGHT) as page:
            page.load(EMPTY)
            scene.play(page, server)
            data = page.browser_page.locator(scene.part).first.screenshot()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return picture.resize((SIDE, round(SIDE * picture.height / picture.width)), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", nargs="*", help=f"of {', '.join(SCENES)}; default: all")
    parser.add_argument("--to", type=Path, default=FOLDER)
    options = parser.parse_args()
    comfyui = find_comfyui()
    assert comfyui is not None, "no ComfyUI was found: set COMFYUI_PATH"
    options.to.mkdir(parents=True, exist_ok=True)
    for name in options.scenes or SCENES:
        save(shoot(SCENES[name], comfyui), options.to / f"{name}.webp", MOST_BYTES)


if __name__ == "__main__":
    main()
