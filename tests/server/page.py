"""ComfyUI's page in a headless Chromium."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import Any

from environment.comfyui import PACK

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
EMPTY: dict[str, Any] = {
    "nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4, "last_node_id": 0, "last_link_id": 0,
}  # fmt: skip
READY = """!!(window.app?.canvas && window.app.graph && window.LiteGraph?.registered_node_types?.PusaSchedule
  && window.app.extensionManager?.workflow?.activeWorkflow)"""

# The loaded graph in plain data: nodes with their real boxes and widgets, and the wires by name. Ids are
# numbers in files, but strings in newer pages.
READ_GRAPH = """() => {
  const nodes = app.graph.nodes.map(node => ({
    id: Number(node.id), type: node.type, title: node.title, known: node.type in LiteGraph.registered_node_types,
    widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value])),
    box: [node.pos[0], node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT, node.pos[0] + node.size[0], node.pos[1] + node.size[1]],
  }));
  const wires = app.graph.nodes.flatMap(node => (node.inputs ?? []).filter(input => input.link != null).map(input => {
    const link = app.graph.links.get?.(input.link) ?? app.graph.links[input.link];
    const source = link && app.graph.getNodeById(link.origin_id);
    return [Number(source?.id), source?.outputs[link.origin_slot]?.name, Number(node.id), input.name];
  }));
  return {nodes, wires};
}"""


class NoBrowser(RuntimeError):
    """Chromium or playwright is not there."""


def find_browser() -> str:
    """PUSA_CHROMIUM, else a system Chromium or Chrome."""
    found = os.environ.get("PUSA_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        raise NoBrowser("no Chromium was found: 'apt install chromium', or set PUSA_CHROMIUM to a Chromium or Chrome")
    return found


class Page:
    """The page with one workflow open."""

    def __init__(self, browser_page):
        self.browser_page = browser_page
        self._thrown: list[str] = []
        browser_page.on("pageerror", lambda error: self._thrown.append(str(error)))

    @property
    def errors(self) -> list[str]:
        """JavaScript exceptions that nobody caught. The page asks its makers' servers for news as well: that those are
        out of reach is no error."""
        return [error for error in self._thrown if error != "Failed to fetch"]

    def forget_errors(self) -> None:
        """Only what comes after counts."""
        self._thrown.clear()

    def load(self, graph: dict, name: str = "test") -> dict[str, Any]:
        """Opens a workflow file's content as dropping the file does; returns what `READ_GRAPH` gives."""
        self.browser_page.evaluate("([graph, name]) => app.loadGraphData(graph, true, true, name)", [graph, name])
        self.browser_page.wait_for_timeout(150)  # widgets that load a picture resize their node
        return self.browser_page.evaluate(READ_GRAPH)

    def prompt(self) -> dict[str, dict]:
        """The API prompt that Run would queue."""
        return self.browser_page.evaluate("async () => (await app.graphToPrompt()).output")


@contextmanager
def open_page(address: str, width: int = 1600, height: int = 1000, locale: str = "en-US"):
    """A `Page` of the ComfyUI at an address, in a browser of a language. Raises NoBrowser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser(f"playwright is not installed: pip install {PACK}[test]") from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(QUIET))
        page = Page(browser.new_page(viewport={"width": width, "height": height}, locale=locale))
        page.browser_page.goto(f"http://{address}/")
        page.browser_page.wait_for_function(READY, timeout=60_000)
        yield page
        browser.close()
