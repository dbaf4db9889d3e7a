"""Where nodes go: models above, the timeline below them, sampling and output to the right.

Links run from left to right between neighbouring columns, and over everything else only above it, so that none is under
a node that it does not belong to. Nothing lies below a sampler, which grows by its preview.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litegraph import Node, Workflow

Box = tuple[int, int, int, int]  # x, y below the title bar, width, height

# Title bar; between nodes; between columns, and after the first, where a link goes down; for links above everything.
TITLE, GAP, AISLE, FIRST_AISLE, LANE = 30, 26, 60, 90, 124
# What a window of 1600 x 1000 leaves between the page's own bars: left, top, width, height.
WINDOW = (75, 105, 1505, 870)

# Columns from left to right: their width. A timeline or the keyframe nodes lie under "loras" and "prompts".
COLUMNS = {"models": 256, "loras": 304, "prompts": 304, "schedule": 280, "settings": 225, "sampling": 256, "output": 330}
WITH_PICTURE = {"sampling": 640}
WITHOUT_TIMELINE = {"loras": 270, "prompts": 270}
PLACES = {
    "models": "VAELoader UNETLoader",
    "loras": "SelectModelDevice SelectCLIPDevice LoraLoaderModelOnly PusaLoraLoader PusaLoraLoaderHighLow "
    "PusaForcingFrameRate CLIPLoader",
    "prompts": "CLIPTextEncode PusaDemoPrompt PusaDemoScene",
    "given": "PusaTimeline LoadImage PusaKeyframe LoadVideo GetVideoComponents PusaVideoKeyframes PusaVideoStrength",
    "schedule": "PusaSchedule PusaDiffusionForcing PusaPromptFromFrame",
    "settings": "PusaApplySchedule RandomNoise KSamplerSelect PusaSigmas",
    "sampling": "PusaKSampler PusaCompareSamplers CFGGuider SamplerCustomAdvanced",
    "output": "VAEDecode ImageFromBatch ImageScaleBy CreateVideo SaveVideo PusaLongVideo PusaLoop",
}
KINDS = [kind for kinds in PLACES.values() for kind in kinds.split()]
# Heights where a node has more to show than its inputs: text, pictures, and what later ComfyUIs add.
HEIGHTS = {
    "CLIPTextEncode": 130,
    "PusaDemoPrompt": 130,
    "PusaTimeline": 580,
    "LoadImage": 322,
    "LoadVideo": 322,
    "PusaSchedule": 620,
    "PusaDiffusionForcing": 700,
    "PusaLongVideo": 900,
    "PusaLoop": 900,
    "PusaCompareSamplers": 700,
    "CreateVideo": 102,
    "SaveVideo": 470,
}
PADDING, BADGE = 8, 32  # of the newer renderer: of every node, and for the pack's name below its nodes
NARROW = 225  # the least width in the newer renderer


def height_of(node: Node) -> int:
    """The least height that the page's newer renderer gives a node: rows of sockets, then widgets."""
    rows = max(len(node.sockets), len(node.definition["outputs"]))
    count = len(node.widgets) + sum("then" in node.definition["inputs"][name] for name in node.widgets)
    badge = BADGE if node.kind.startswith("Pusa") else 0
    return HEIGHTS.get(node.kind, 6 + 20 * rows + (24 * count + 8 if count else 0) + PADDING + badge)


def layout(workflow: Workflow) -> dict[int, Box]:
    """Where each node goes: id -> box."""
    sheet = _Sheet(workflow)
    sheet.models()
    sheet.given()
    sheet.sampling()
    sheet.output()
    return sheet.boxes


class _Sheet:
    """The boxes of a workflow's nodes, placed column by column."""

    def __init__(self, workflow: Workflow):
        self.boxes: dict[int, Box] = {}
        self.nodes = list(workflow.nodes)
        self.columns = COLUMNS | ({} if self.of("PusaTimeline") else WITHOUT_TIMELINE)
        if self.of("PusaCompareSamplers"):
            self.columns |= WITH_PICTURE
        self.x = _lefts({place_of(node.kind) for node in self.nodes}, self.columns)

    def of(self, *kinds: str) -> list[Node]:
        return [node for node in self.nodes if node.kind in kinds]

    def stack(self, nodes: list[Node], x: int, y: int, width: int) -> int:
        """Puts nodes below each other; the height where the next would go, if it had no title."""
        for node in nodes:
            self.boxes[node.id] = (x, y, width, height_of(node))
            y += height_of(node) + GAP + TITLE
        return y

    def column(self, nodes: list[Node], name: str, y: int) -> int:
        return self.stack(nodes, self.x.get(name, 0), y, self.columns[name])

    def models(self) -> None:
        """Loaders, LoRAs and texts. The LoRA that goes to the sampler is next to it where that takes two models."""
        two, lightning = self.of("PusaLoraLoaderHighLow"), self.of("LoraLoaderModelOnly")
        pusa = [*two, *self.of("PusaLoraLoader", "PusaForcingFrameRate")]
        behind = bool(lightning or two)
        ends = [
            self.column(self.of("UNETLoader"), "models", LANE),
            self.column(lightning if behind else pusa, "loras", LANE),
            self.column(pusa if behind else [], "prompts", LANE),
        ]
        vae = "schedule" if self.of("PusaSchedule") else "models"
        self.column(self.of("VAELoader"), vae, 0)
        self.column(self.of("CLIPLoader"), "models" if self.of("SelectCLIPDevice") else "loras", max(ends))
        for kind, loader in (("SelectModelDevice", "UNETLoader"), ("SelectCLIPDevice", "CLIPLoader")):
            for select in self.of(kind):
                self.column([select], "loras", self.boxes[self.of(loader)[-1].id][1])
        beside = LANE + 2 * AISLE if self.of("CFGGuider") else LANE + AISLE
        prompts = self.of("CLIPTextEncode", "PusaDemoPrompt")
        self.column(prompts, "prompts", max(ends) if behind else beside)
        for prompt, begins in zip(prompts[1:], self.of("PusaPromptFromFrame")):
            self.column([begins], "schedule", self.boxes[prompt.id][1])

    def bottom(self) -> int:
        return max(y + height for _, y, _, height in self.boxes.values())

    def given(self) -> None:
        """The timeline, or single nodes that stand for it."""
        y = self.bottom() + AISLE + TITLE
        width = COLUMNS["loras"] + AISLE + COLUMNS["prompts"]
        width += AISLE + COLUMNS["schedule"] if self.of("PusaPromptFromFrame") else 0
        self.stack(self.of("PusaTimeline"), self.x["loras"], y, width)
        self.column(self.of("LoadImage"), "loras", y)
        for load, keyframe in zip(self.of("LoadImage"), self.of("PusaKeyframe")):
            self.column([keyframe], "prompts", self.boxes[load.id][1])
        self.column(self.of("PusaSchedule", "PusaDiffusionForcing"), "schedule", y)
        strength, keyframes = self.of("PusaVideoStrength"), self.of("PusaVideoKeyframes")
        self.column(strength, "prompts", y)
        if strength:
            return self._clip(y)
        for scene in self.of("PusaDemoScene"):
            self.column([scene], "prompts" if keyframes else "schedule", y - AISLE + GAP)
            self.column(keyframes, "schedule", y - AISLE + GAP)

    def _clip(self, y: int) -> None:
        """What a clip comes from that all frames start from."""
        self.column(self.of("PusaDemoScene", "LoadVideo", "GetVideoComponents"), "loras", y)

    def sampling(self) -> None:
        """With ComfyUI's own sampler nodes, links to guider and sampler pass between those of a column."""
        self.column(self.of("PusaApplySchedule"), "settings", LANE)
        self.column(self.of("RandomNoise", "KSamplerSelect", "PusaSigmas"), "settings", 2 * LANE + 470)
        self.column(self.of("PusaKSampler", "PusaCompareSamplers"), "sampling", LANE)
        self.column(self.of("CFGGuider"), "sampling", LANE + AISLE + GAP)
        self.column(self.of("SamplerCustomAdvanced"), "sampling", 2 * LANE + 240)

    def output(self) -> None:
        """Beside each other, or, where a wide node leaves less room, all but the last below each other."""
        *before, last = self.of(*PLACES["output"].split())
        far = self.of("PusaDemoScene") and not self.of("PusaVideoStrength")
        x = self.x["output"] + 4 * AISLE * bool(far)  # a link that comes from far below
        if self.of("PusaDiffusionForcing", "PusaVideoStrength", "PusaCompareSamplers"):
            self.stack(before, x, 0, NARROW)
            x += NARROW + AISLE
        else:
            for node in before:
                self.stack([node], x, 0, NARROW)
                x += NARROW + GAP
        self.stack([last], x, 0, COLUMNS["output"])


def place_of(kind: str) -> str:
    return next(place for place, kinds in PLACES.items() if kind in kinds.split())


def _lefts(places: set[str], columns: dict[str, int]) -> dict[str, int]:
    """Where the columns that are used begin."""
    x, lefts = 0, {}
    for name, width in columns.items():
        if name in places or name == "loras":
            lefts[name] = x
            x += width + (FIRST_AISLE if name == "models" else AISLE)
    return lefts


def note_box(boxes: dict[int, Box]) -> Box:
    """The note fills what is left under the models."""
    x, width = 0, COLUMNS["models"]
    top = max(box[1] + box[3] for box in boxes.values() if box[0] == x) + AISLE + TITLE
    bottom = max(box[1] + box[3] for box in boxes.values())
    return x, top, width, bottom - top


def view(boxes: dict[int, Box]) -> dict[str, Any]:
    """Scale and offset with which the page opens: all of the graph."""
    right, bottom = (max(box[i] + box[i + 2] for box in boxes.values()) for i in (0, 1))
    left, top, width, height = WINDOW
    scale = int(100 * min(1.0, width / right, height / (bottom + TITLE))) / 100
    return {"scale": scale, "offset": [round(left / scale), round(top / scale) + TITLE]}
