"""Writes the README's and the help's pictures of ComfyUI's page: python -m tests.server.scenes [scene ...]

The template browser with the pack's workflows; one of them as a graph, as an app, and in a second language, each after a run
of the demo model; the timeline, and a long one in the light theme while an item is dragged. Needs a ComfyUI with an app
mode, Chromium, a font with Chinese letters, and about four minutes. With --to FOLDER they go there.
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
from tests.server.timeline.hands import LANES, Hands

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

TO_ALL = """() => {
  const {nodes} = app.graph, [left, top] = [0, 1].map(axis => Math.min(...nodes.map(node => node.pos[axis])));
  const right = Math.max(...nodes.map(node => node.pos[0] + node.size[0]));
  app.canvas.ds.scale = 1410 / (right - left);
  app.canvas.ds.offset = [75 / app.canvas.ds.scale - left, 110 / app.canvas.ds.scale - top];
  app.canvas.setDirty(true, true);
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


def workflow(page: Page, server: ComfyServer) -> None:
    """The graph after a run, as wide as the window."""
    run(page, server)
    page.browser_page.evaluate(TO_ALL)
    page.browser_page.wait_for_timeout(1500)


BOAT = [
    {"at": 0, "media": "boat_start.jpg [pusa]", "noise": 0.2},
    {"at": 24, "media": "boat.mp4 [pusa]", "take": [0, 13], "noise": [0, 0.3, 0.4, 0.5]},
    {"at": 56, "media": "boat_middle.jpg [pusa]", "noise": 0.3, "behaviour": "hold"},
    {"at": -1, "media": "boat_end.jpg [pusa]", "noise": 0.5},
]
LONG = [
    {"at": 0, "media": "balloon.mp4 [pusa]", "take": [0, 13], "noise": [0, 0.3, 0.4, 0.5]},
    {"at": 44, "media": "boat_start.jpg [pusa]", "noise": 0.3},
    {"at": 76, "media": "boat_middle.jpg [pusa]", "noise": 0.4},
    {"at": 112, "media": "boat.mp4 [pusa]", "take": [0, 17], "noise": "0.2 to 0.6"},
    {"at": -1, "media": "boat_end.jpg [pusa]", "noise": 0.5},
]


def enlarge(page: Page) -> None:
    page.browser_page.evaluate("app.canvas.ds.scale = 2; app.canvas.ds.offset = [-80, -300]; app.canvas.setDirty(true, true)")
    page.browser_page.wait_for_timeout(2500)


def timeline(page: Page, server: ComfyServer) -> None:
    """Pictures and a clip, before a sampler with two models."""
    hands = Hands(page)
    hands.new(81, BOAT)
    hands.connect("PusaKSampler", low_noise_model="UNETLoader")
    enlarge(page)
    page.browser_page.locator(".pt-item").nth(1).click()


def timeline_long(page: Page, server: ComfyServer) -> None:
    """Above 60 latent frames: an item is on its way."""
    Hands(page).new(321, LONG)
    enlarge(page)
    box = page.browser_page.locator(".pt-item").nth(2).bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + LANES["items"] / 2
    page.browser_page.mouse.move(x, y)
    page.browser_page.mouse.down()
    page.browser_page.mouse.move(x + 90, y, steps=4)
    page.browser_page.wait_for_timeout(500)


def language(page: Page, server: ComfyServer) -> None:
    """The same workflow in Chinese, with the help of its timeline."""
    run(page, server)
    browser = page.browser_page
    browser.evaluate(TO_TIMELINE)
    browser.wait_for_selector('[data-testid="info-button"]').evaluate("button => button.click()")
    browser.wait_for_timeout(2500)


@dataclass(frozen=True)
class Scene:
    """What is done in the page for a picture, under which settings, the part of it that is shown, and how wide."""

    play: Callable[[Page, ComfyServer], None]
    settings: dict[str, object] = field(default_factory=dict)
    part: str = "body"  # a selector
    width: int = SIDE


TIMELINE = ".pusa-timeline"
SCENES = {
    "workflow": Scene(workflow, {"LiteGraph.Canvas.MinFontSizeForLOD": 0}, width=WIDTH),
    "timeline": Scene(timeline, part=TIMELINE),
    "timeline_long": Scene(timeline_long, {"Comfy.ColorPalette": "light"}, TIMELINE),
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
    return picture.resize((scene.width, round(scene.width * picture.height / picture.width)), Image.Resampling.LANCZOS)


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
