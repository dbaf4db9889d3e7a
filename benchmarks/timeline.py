"""How long the timeline takes to redraw while something is dragged, in ComfyUI's real page.

    python benchmarks/timeline.py [--write]

200 latent frames, 50 items, of which one is dragged to and fro; Chromium without a GPU. Both renderers; the median, the 95th
percentile and the longest time that a frame takes, in which the item is moved and all is redrawn, and the size of what the
page loads. On a machine that does other things, too, `chrt -f 10` before it (as root, on Linux) measures only the timeline.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PACK))

from bench import processor, publish, table  # noqa: E402

from environment.comfyui import find_comfyui, how_to_get  # noqa: E402
from environment.server import PACK_NAME, ComfyServer  # noqa: E402
from tests.server.page import open_page  # noqa: E402

LATENTS, ITEMS, MOVES = 200, 50, 200
PREPARE = """async ([view, length, text]) => {
  const {Timeline} = await import(view);
  window.times = [];
  let moving = 0;
  const redraw = Timeline.prototype.redraw.plain ?? Timeline.prototype.redraw;
  Timeline.prototype.redraw = function () {
    const {follow} = this;
    if (!follow.isTimed) {
      this.follow = () => {
        const begun = performance.now(), goesOn = follow();
        moving = performance.now() - begun;
        return goesOn;
      };
      this.follow.isTimed = true;
    }
    this.root.offsetWidth;  // what the page has still to lay out is not the timeline's
    const begun = performance.now();
    redraw.call(this);
    this.root.offsetWidth;  // but what it costs to lay out its own elements is
    window.times.push(moving + performance.now() - begun);
    moving = 0;
  };
  Timeline.prototype.redraw.plain = redraw;
  const empty = {nodes: [], links: [], groups: [], config: {}, extra: {}, version: 0.4, last_node_id: 0, last_link_id: 0};
  await app.loadGraphData(empty);
  await new Promise(done => setTimeout(done, 200));
  const node = LiteGraph.createNode("PusaTimeline");
  app.graph.add(node);
  node.pos = [120, 140];
  node.setSize([1100, 560]);
  for (const [name, value] of [["length", length], ["timeline", text]]) node.widgets.find(w => w.name === name).value = value;
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [0, 0];
  app.canvas.setDirty(true, true);
}"""


def measure(page, modern: bool) -> list[float]:
    """Milliseconds of each redraw."""
    browser = page.browser_page
    browser.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", modern)
    places = [4 * round(i * (LATENTS - 2) / (ITEMS - 1)) for i in range(ITEMS)]
    items = [{"at": at, "media": "example.png", "noise": round(0.01 * i, 2)} for i, at in enumerate(places)]
    text = json.dumps({"version": 1, "items": items})
    browser.evaluate(PREPARE, [f"/extensions/{PACK_NAME}/timeline/view.js", 4 * LATENTS - 3, text])
    browser.wait_for_selector(".pt-item")
    browser.wait_for_timeout(1000)
    box = browser.locator(".pt-item").nth(5).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    browser.mouse.move(x, y)
    browser.mouse.down()
    browser.evaluate("window.times.length = 0")
    for move in range(MOVES):
        browser.mouse.move(x + 300 * abs((move % 100) / 50 - 1), y)
    browser.mouse.up()
    return browser.evaluate("window.times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/results.md, too")
    options = parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        sys.exit(how_to_get())
    server = ComfyServer(comfyui)
    (server.base / "input" / "example.png").write_bytes((comfyui / "input" / "example.png").read_bytes())
    with server:
        server.post("/settings/Comfy.TutorialCompleted", True)
        report(server, options.write)


def report(server: ComfyServer, write: bool) -> None:
    with open_page(server.address, 1400, 900) as page:
        rows = [row(name, measure(page, name == "Nodes 2.0")) for name in ("canvas", "Nodes 2.0")]
        chromium = page.browser_page.context.browser.version
    text = table(["renderer", "redraws", "median, ms", "95th percentile, ms", "longest, ms"], rows)
    files = [path for path in (PACK / "web").rglob("*") if path.suffix in (".js", ".css")]
    size = sum(path.stat().st_size for path in files)
    place = f"CPU ({processor()}); ComfyUI {server.get('/system_stats')['system']['comfyui_version']}, Chromium {chromium}"
    publish("timeline", f"{text}\n\nJavaScript and CSS: {size:,} bytes.", write, place)


def row(name: str, times: list[float]) -> list[str]:
    times = sorted(times)
    late = times[int(0.95 * len(times))]
    return [name, str(len(times)), *(f"{time:.1f}" for time in (statistics.median(times), late, times[-1]))]


if __name__ == "__main__":
    main()
