"""The timeline in ComfyUI's real page, in both of its renderers.

PUSA_FRONTEND=<folder> serves another page, as in test_page.py.
"""

import os

import pytest

from environment.server import ComfyServer
from tests.server.conftest import CLIP, write_demos
from tests.server.page import NoBrowser, open_page
from tests.server.timeline.hands import PICTURES, Hands


@pytest.fixture(scope="module")
def served(server, comfyui):
    """The running server, or one with the page of PUSA_FRONTEND."""
    frontend = os.environ.get("PUSA_FRONTEND")
    if not frontend:
        yield server
        return
    own = ComfyServer(comfyui, extra_args=("--front-end-root", frontend))
    write_demos(own.base / "input")
    with own:
        yield own


@pytest.fixture(scope="module")
def page(served):
    served.post("/settings/Comfy.TutorialCompleted", True)  # else templates lie over everything
    try:
        with open_page(served.address, 1400, 900) as page:
            page.browser_page.context.grant_permissions(["clipboard-read", "clipboard-write"])
            page.console = []
            page.browser_page.on("console", lambda m: m.type == "error" and page.console.append(m.text))
            yield page
    except NoBrowser as missing:
        if os.environ.get("PUSA_REQUIRE_COMFYUI") == "1":
            pytest.fail(f"the page was not tested: {missing}")
        pytest.skip(f"the page was not tested: {missing}")


@pytest.fixture(params=["canvas", "nodes 2.0"])
def hands(request, page):
    page.browser_page.evaluate(
        "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", request.param != "canvas"
    )
    page.errors.clear()
    page.console.clear()
    yield Hands(page)
    assert page.errors == []
    ours = [text for text in page.console if "pusa" in text.lower() or "timeline" in text.lower()]
    assert ours == []


@pytest.fixture
def files(served):
    return [served.base / "input" / name for name in (*PICTURES, CLIP)]
