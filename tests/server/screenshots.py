"""Writes the help pages' pictures of the nodes: python -m tests.server.screenshots [node ...]

Each is taken in ComfyUI's real page (dark theme, canvas), some after a run of the demo model. Needs a ComfyUI, Chromium
and about two minutes. With --to FOLDER they go there; with --nodes2 they show the newer renderer.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from PIL import Image

from environment.comfyui import PACK, find_comfyui
from environment.server import ComfyServer
from tests.server.page import open_page

FOLDER = PACK / "web" / "pictures" / "nodes"
MOST_BYTES = 25_000
EDGE, SCALE = 14, 1.25  # pixels of canvas around a node; of a node's own size
QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.Workflow.WorkflowTabsPosition": "Sidebar",
}
DEMO = {"unet_name": "pusa_demo_t2v.safetensors", "lora_name": "pusa_demo_lora.safetensors"}
TEXT = "a red circle moves right quickly on a gradient background"
ITEMS = """{"version":1,"items":[{"at":0,"media":"boat_start.jpg [pusa]","noise":0.2},
{"at":40,"media":"boat_middle.jpg [pusa]","noise":0.3},{"at":-1,"media":"boat_end.jpg [pusa]","noise":0.5}]}"""

# Nodes by name: (type, widgets, {input: (node, output)}). What is not here stands alone, with its defaults.
DEMO_NODES = {
    "scene": ("PusaDemoScene", {"text": TEXT}, {}),
    "vae": ("VAELoader", {"vae_name": "pusa_demo_vae.safetensors"}, {}),
    "start": ("PusaKeyframe", {"noise_multiplier": 0.0}, {"image": ("scene", 1)}),
    "end": ("PusaKeyframe", {"frame_index": -1, "noise_multiplier": 0.0}, {"image": ("scene", 2), "previous": ("start", 0)}),
    "schedule": (
        "PusaSchedule",
        {"width": 64, "height": 64, "length": 17},
        {"vae": ("vae", 0), "keyframes": ("end", 0)},
    ),
}
SAMPLED = {
    "unet": ("UNETLoader", {"unet_name": DEMO["unet_name"]}, {}),
    "lora": ("PusaLoraLoader", {"lora_name": DEMO["lora_name"], "alpha": 1.0}, {"model": ("unet", 0)}),
    "positive": ("PusaDemoPrompt", {"text": TEXT}, {}),
    "negative": ("PusaDemoPrompt", {"text": ""}, {}),
    "sampler": (
        "PusaKSampler",
        {"seed": 42, "control_after_generate": "fixed"},
        {"model": ("lora", 0), "positive": ("positive", 0), "negative": ("negative", 0), "latent": ("schedule", 0)},
    ),
    "decode": ("VAEDecode", {}, {"samples": ("sampler", 0), "vae": ("vae", 0)}),
    "shown": ("PreviewImage", {}, {"images": ("decode", 0)}),
}
COMPARED = {name: node for name, node in SAMPLED.items() if name in ("unet", "lora", "positive", "negative")} | {
    "compare": (
        "PusaCompareSamplers",
        {"seed": 42, "control_after_generate": "fixed", "fine_evaluations": 40},
        {"model": ("lora", 0), "positive": ("positive", 0), "negative": ("negative", 0), "latent": ("schedule", 0)},
    ),
}
RUNS: dict[str, tuple[dict[str, tuple], str]] = {
    "PusaSchedule": (DEMO_NODES, "schedule"),
    "PusaKSampler": ({**DEMO_NODES, **SAMPLED}, "sampler"),
    "PusaCompareSamplers": ({**DEMO_NODES, **COMPARED}, "compare"),
}
LONE: dict[str, dict[str, Any]] = {
    "PusaTimeline": {"timeline": ITEMS},
    "PusaLoraLoader": {"lora_name": DEMO["lora_name"]},
    "PusaLoraLoaderHighLow": {name: DEMO["lora_name"] for name in ("high_noise_lora", "low_noise_lora")},
    "PusaCompressLora": {"lora_name": DEMO["lora_name"]},
    "PusaBakeLoras": {"model_name": DEMO["unet_name"], "lora": DEMO["lora_name"]},
}

BUILD = """async nodes => {
  const empty = {nodes: [], links: [], groups: [], config: {}, extra: {}, version: 0.4, last_node_id: 0, last_link_id: 0};
  await app.loadGraphData(empty);
  const made = {};
  let x = 0;
  for (const [name, [type, widgets]] of Object.entries(nodes)) {
    const node = made[name] = LiteGraph.createNode(type);
    node.pos = [x, 0];
    const pictures = {PusaSchedule: [560, 580], PusaCompareSamplers: [640, 680]};
    const room = pictures[type] ?? [340, 0];  // for its picture; for names of files
    node.setSize([...node.size].map((side, i) => Math.max(side, room[i])));
    app.graph.add(node);
    for (const [widget, value] of Object.entries(widgets)) {
      const found = node.widgets.find(other => other.name.replaceAll(" ", "_") === widget);
      found.value = value;
      found.callback?.(value);
    }
    x += node.size[0] + 500;
  }
  for (const [name, [, , wires]] of Object.entries(nodes))
    for (const [input, [source, slot]] of Object.entries(wires))
      made[source].connect(slot, made[name], made[name].inputs.findIndex(other => other.name === input));
  return Object.fromEntries(Object.entries(made).map(([name, node]) => [name, String(node.id)]));
}"""
FRAME = """([id, edge, scale]) => {
  const node = app.graph.nodes.find(other => String(other.id) === id), view = app.canvas.ds;
  view.scale = scale;
  view.offset = [100 - node.pos[0], 130 - node.pos[1]];
  app.canvas.deselectAll?.();
  app.canvas.draw(true, true);
  const [left, top] = [100 * scale, (130 - LiteGraph.NODE_TITLE_HEIGHT) * scale];
  const place = app.canvas.canvas.getBoundingClientRect();
  return {
    x: place.x + left - edge, y: place.y + top - edge, width: node.size[0] * scale + 2 * edge,
    height: (node.size[1] + LiteGraph.NODE_TITLE_HEIGHT) * scale + 2 * edge,
  };
}"""


def shoot(page, server: ComfyServer, node: str) -> Image.Image:
    """The node's picture, after a run where there is one for it."""
    browser = page.browser_page
    nodes, name = RUNS.get(node, ({node: (node, LONE.get(node, {}), {})}, node))
    ids = browser.evaluate(BUILD, nodes)
    browser.wait_for_timeout(1500)
    if node in RUNS:
        before = len(server.get("/history"))
        browser.evaluate("() => app.queuePrompt(0)")
        while len(server.get("/history")) == before:
            browser.wait_for_timeout(300)
        browser.wait_for_timeout(2000)
    browser.evaluate(FRAME, [ids[name], EDGE, SCALE])
    browser.wait_for_timeout(700)
    clip = browser.evaluate(FRAME, [ids[name], EDGE, SCALE])
    return Image.open(io.BytesIO(browser.screenshot(clip=clip))).convert("RGB")


def save(picture: Image.Image, path: Path, most_bytes: int = MOST_BYTES) -> None:
    """As WebP, in the best quality that the bound allows."""
    for quality in range(90, 20, -5):
        data = io.BytesIO()
        picture.save(data, "WEBP", quality=quality, method=6)
        if data.tell() <= most_bytes:
            break
    path.write_bytes(data.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("nodes", nargs="*", help="default: all")
    parser.add_argument("--to", type=Path, default=FOLDER)
    parser.add_argument("--nodes2", action="store_true")
    options = parser.parse_args()
    comfyui = find_comfyui()
    assert comfyui is not None, "no ComfyUI was found: set COMFYUI_PATH"
    options.to.mkdir(parents=True, exist_ok=True)
    with ComfyServer(comfyui) as server:
        for name, value in {**QUIET, "Comfy.VueNodes.Enabled": options.nodes2}.items():
            server.post(f"/settings/{name}", value)
        with open_page(server.address, 1700, 1500) as page:
            page.browser_page.mouse.move(1690, 1490)
            for node in options.nodes or sorted(name for name in server.object_info() if name.startswith("Pusa")):
                save(shoot(page, server, node), options.to / f"{node}.webp")


if __name__ == "__main__":
    main()
