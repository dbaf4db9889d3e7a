"""A timeline on the page, touched as a user touches it."""

import base64
import json

import pytest

from tests.server.conftest import CLIP

PICTURES = ("start_frame.jpg", "middle_frame.jpg", "end_frame.jpg")
TWO = ({"at": 0, "media": "start_frame.jpg", "noise": 0.2}, {"at": 40, "media": "end_frame.jpg", "noise": 0.3})
WITH_CLIP = (*TWO, {"at": -13, "media": CLIP, "take": [0, 13], "noise": [0, 0.3, 0.4, 0.5]})
LENGTH = 81
LANES = {"items": 60, "noise": 120}  # pixels below the lanes' top
NOISE_TOP, NOISE_TALL, GUTTER = 107, 48, 52
HEAT_TALL = 58

NEW = """async ([length, text]) => {
  const empty = {nodes: [], links: [], groups: [], config: {}, extra: {}, version: 0.4, last_node_id: 0, last_link_id: 0};
  await app.loadGraphData(empty);
  await new Promise(done => setTimeout(done, 100));
  const node = LiteGraph.createNode("PusaTimeline");
  app.graph.add(node);
  node.pos = [120, 140];
  const widget = name => node.widgets.find(other => other.name === name);
  widget("length").value = length;
  widget("length").callback?.(length);
  if (text) widget("timeline").value = text;
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [0, 0];
  app.canvas.setDirty(true, true);
}"""
RESTS = """() => {
  const lanes = document.querySelector(".pt-lanes"), {x, y, width} = lanes?.getBoundingClientRect() ?? {};
  const before = lanes?.before, place = lanes && (lanes.before = [x, y, width].join());
  return width && place === before && document.querySelector(".pt-status").textContent;
}"""
DROP = """async ([name, data, kind, x, y]) => {
  const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: kind}));
  const target = document.elementFromPoint(x, y);
  const event = {dataTransfer: transfer, clientX: x, clientY: y, bubbles: true, cancelable: true};
  for (const kind of ["dragover", "drop"]) target.dispatchEvent(new DragEvent(kind, event));
}"""

CLIPBOARD = """async () => {
  const canvas = new OffscreenCanvas(64, 64);
  canvas.getContext("2d").fillRect(0, 0, 64, 64);
  await navigator.clipboard.write([new ClipboardItem({"image/png": canvas.convertToBlob()})]);
}"""
COLOUR = """([x, y]) => {
  const canvas = document.querySelector(".pt-lanes canvas"), box = canvas.getBoundingClientRect();
  const at = [(x - box.left) * canvas.width / box.width, (y - box.top) * canvas.height / box.height].map(Math.floor);
  return [...canvas.getContext("2d").getImageData(...at, 1, 1).data.slice(0, 3)];
}"""
CONNECT = """([name, to, inputs]) => {
  const timeline = app.graph.nodes.find(node => node.type === "PusaTimeline"), node = LiteGraph.createNode(name);
  const slot = (of, name) => of.inputs.findIndex(input => input.name === name);
  app.graph.add(node);
  node.pos = [900, 700];
  if (to) node.connect(0, timeline, slot(timeline, to));
  else timeline.connect(0, node, slot(node, "latent"));
  for (const [input, kind] of Object.entries(inputs)) {
    const source = LiteGraph.createNode(kind);
    app.graph.add(source);
    source.connect(0, node, slot(node, input));
  }
}"""


class Hands:
    """A timeline and the hands of its user."""

    def __init__(self, page):
        self.page, self.browser = page, page.browser_page

    def new(self, length=LENGTH, items=()):
        text = json.dumps({"version": 1, "items": list(items)}) if items else ""
        self.browser.evaluate(NEW, [length, text])
        self.browser.wait_for_function(RESTS, polling=100)
        self.length = length

    def value(self):
        """What the prompt holds: its only timeline."""
        (node,) = (n for n in self.page.prompt().values() if n["class_type"] == "PusaTimeline")
        return json.loads(node["inputs"]["timeline"])["items"]

    def point(self, latent, y):
        box = self.browser.locator(".pt-lanes").first.bounding_box()
        column = (box["width"] - GUTTER) / ((self.length - 1) // 4 + 1)
        return box["x"] + GUTTER + (latent + 0.5) * column, box["y"] + y

    def noise(self, latent, noise):
        return self.point(latent, NOISE_TOP + NOISE_TALL * (1 - noise))

    def drag(self, start, end):
        mouse = self.browser.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=3)
        mouse.move(*end, steps=3)
        mouse.up()
        self.browser.wait_for_timeout(50)

    def drop(self, path, latent):
        kind = "video/mp4" if path.suffix == ".mp4" else "image/jpeg"
        data = base64.b64encode(path.read_bytes()).decode()
        before = len(self.value())
        self.browser.evaluate(DROP, [path.name, data, kind, *self.point(latent, LANES["items"])])
        return self.settled(before + 1)

    def press(self, *keys):
        for key in keys:
            self.browser.keyboard.press(key)
            self.browser.wait_for_timeout(50)

    def focus(self, index):
        self.browser.locator(".pt-item").nth(index).focus()

    def paste_picture(self):
        """Puts a picture on the clipboard, and pastes it."""
        self.browser.evaluate(CLIPBOARD)
        self.press("Control+v")

    def settled(self, count):
        """The value when it has so many items."""
        for _ in range(60):
            if len(self.value()) == count:
                return self.value()
            self.browser.wait_for_timeout(100)
        pytest.fail(f"there are {len(self.value())} items instead of {count}: {self.status()}")

    def undo(self, command="Undo"):
        self.browser.evaluate("name => app.extensionManager.command.execute('Comfy.' + name)", command)
        self.browser.wait_for_timeout(400)

    def colour(self, latent, step, steps=10):
        """What the picture of the schedule shows of a latent frame in a step."""
        height = self.browser.locator(".pt-lanes").first.bounding_box()["height"]
        x, y = self.point(latent, height - HEAT_TALL * (1 - (step + 0.5) / steps))
        return tuple(self.browser.evaluate(COLOUR, [x, y]))

    def connect(self, name, to="", **inputs):
        """Adds a node and wires it: to the timeline's input, or behind its latent."""
        self.browser.evaluate(CONNECT, [name, to, inputs])
        self.browser.wait_for_timeout(200)

    def status(self):
        return self.browser.locator(".pt-status").first.inner_text()
