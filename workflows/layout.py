"""Where nodes go: models above, the timeline below them, sampling and output to the right.

Links run from left to right between neighbouring columns, and over everything else only above it, so that none is under
a node that it does not belong to. Nothing lies below a sampler, which grows by its preview.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litegraph import Node, Workflow

Box = tuple[int, int, int, int]  # x, y below the title bar, width, height

TITLE, GAP, AISLE, LANE = 30, 30, 60, 110  # title bar; between nodes; between columns; for links above everything
WINDOW = (1480, 860)  # pixels that a graph has to fit into when it opens
PREVIEW = 320  # that a sampler grows by

# Columns from left to right: their width. A timeline or the keyframe nodes lie under "loras" and "prompts".
COLUMNS = {"models": 300, "loras": 320, "prompts": 320, "schedule": 340, "settings": 250, "sampling": 290, "output": 400}
PLACES = {
    "models": "VAELoader UNETLoader",
    "loras": "LoraLoaderModelOnly PusaLoraLoader PusaLoraLoaderHighLow CLIPLoader",
    "prompts": "CLIPTextEncode PusaDemoPrompt",
    "given": "PusaTimeline LoadImage PusaKeyframe",
    "schedule": "PusaSchedule",
    "settings": "PusaApplySchedule RandomNoise KSamplerSelect PusaSigmas",
    "sampling": "PusaKSampler CFGGuider SamplerCustomAdvanced",
    "output": "VAEDecode ImageScaleBy CreateVideo SaveVideo",
}
KINDS = [kind for kinds in PLACES.values() for kind in kinds.split()]
# Heights where a node has more to show than its inputs: text, pictures, and what later ComfyUIs add.
HEIGHTS = {
    "CLIPTextEncode": 130,
    "PusaDemoPrompt": 130,
    "PusaTimeline": 580,
    "LoadImage": 280,
    "PusaSchedule": 620,
    "CreateVideo": 102,
    "SaveVideo": 470,
}
SAMPLERS = ("PusaKSampler", "SamplerCustomAdvanced")
WIDTHS = {"VAEDecode": 150, "ImageScaleBy": 200, "CreateVideo": 190}  # those side by side


def height_of(node: Node) -> int:
    """The least height that the page gives a node: rows of sockets, then widgets."""
    rows = max(len(node.sockets), len(node.definition["outputs"]))
    count = len(node.widgets) + sum("then" in node.definition["inputs"][name] for name in node.widgets)
    return max(HEIGHTS.get(node.kind, 0), 6 + 20 * rows + (24 * count + 8 if count else 0))


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
        self.x = _lefts({place_of(node.kind) for node in self.nodes})

    def of(self, *kinds: str) -> list[Node]:
        return [node for node in self.nodes if node.kind in kinds]

    def stack(self, nodes: list[Node], x: int, y: int, width: int, gap: int = GAP) -> int:
        """Puts nodes below each other; the height where the next would go, if it had no title."""
        for node in nodes:
            self.boxes[node.id] = (x, y, width, height_of(node))
            y += height_of(node) + gap + TITLE
        return y

    def column(self, nodes: list[Node], name: str, y: int, gap: int = GAP) -> int:
        return self.stack(nodes, self.x.get(name, 0), y, COLUMNS[name], gap)

    def models(self) -> None:
        """Loaders, LoRAs and texts. The LoRA that goes to the sampler is next to it where that takes two models."""
        pusa, lightning = self.of("PusaLoraLoader", "PusaLoraLoaderHighLow"), self.of("LoraLoaderModelOnly")
        behind = bool(lightning) or pusa[0].kind == "PusaLoraLoaderHighLow"
        ends = [
            self.column(self.of("UNETLoader"), "models", LANE),
            self.column(lightning if behind else pusa, "loras", LANE),
            self.column(pusa if behind else [], "prompts", LANE),
        ]
        vae = "schedule" if self.of("PusaSchedule") else "models"
        self.column(self.of("VAELoader"), vae, 0)
        self.column(self.of("CLIPLoader"), "loras", max(ends))
        self.column(self.of(*PLACES["prompts"].split()), "prompts", max(ends) if behind else LANE + AISLE)

    def bottom(self) -> int:
        return max(y + height for _, y, _, height in self.boxes.values())

    def given(self) -> None:
        """The timeline, or single nodes that stand for it."""
        y = self.bottom() + AISLE + TITLE
        width = COLUMNS["loras"] + AISLE + COLUMNS["prompts"]
        self.stack(self.of("PusaTimeline"), self.x["loras"], y, width)
        self.column(self.of("LoadImage"), "loras", y)
        for load, keyframe in zip(self.of("LoadImage"), self.of("PusaKeyframe")):
            self.column([keyframe], "prompts", self.boxes[load.id][1])
        self.column(self.of("PusaSchedule"), "schedule", y)

    def sampling(self) -> None:
        """With ComfyUI's own sampler nodes, links to guider and sampler pass between those of a column."""
        self.column(self.of("PusaApplySchedule"), "settings", LANE)
        self.column(self.of("RandomNoise", "KSamplerSelect", "PusaSigmas"), "settings", 2 * LANE + 400)
        self.column(self.of("PusaKSampler", "CFGGuider"), "sampling", LANE)
        self.column(self.of("SamplerCustomAdvanced"), "sampling", 2 * LANE + 240)

    def output(self) -> None:
        """From left to right, and the saved video with its player below."""
        x, y = self.x["output"], 0
        *steps, save = self.of(*PLACES["output"].split())
        for node in steps:
            self.stack([node], x, y, WIDTHS[node.kind])
            x += WIDTHS[node.kind] + GAP
        self.column([save], "output", max(height_of(node) for node in steps) + AISLE + TITLE)


def place_of(kind: str) -> str:
    return next(place for place, kinds in PLACES.items() if kind in kinds.split())


def _lefts(places: set[str]) -> dict[str, int]:
    """Where the columns that are used begin."""
    x, lefts = 0, {}
    for name, width in COLUMNS.items():
        if name in places or name == "loras":
            lefts[name] = x
            x += width + AISLE
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
    scale = round(min(1.0, WINDOW[0] / right, WINDOW[1] / (bottom + TITLE)), 2)
    return {"scale": scale, "offset": [round(80 / scale), round(70 / scale) + TITLE]}
