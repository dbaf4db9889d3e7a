"""The pack as users get it: cloned from a git remote, or unpacked from the registry's archive, into a clean ComfyUI.

It is imported without a warning, serves all that the page asks for, runs the first template, writes nothing into its own
folder, and leaves nothing behind but results when its folder is deleted. Its folder may have any name.
"""

import json
import re
import shutil
import subprocess
import urllib.parse
import zipfile

import pytest

from environment.comfyui import PACK
from environment.server import ComfyServer, PromptRefused
from tests.install.archive import write_archive
from tests.server.page import NoBrowser, open_page
from tests.server.shared import TITLES

TROUBLE = re.compile(r"warn|error|fail|traceback|deprecat|missing|cannot|could not", re.IGNORECASE)
FIRST = "demo_image_to_video"  # needs no download
MISSING = """performance.getEntriesByType('resource')
  .filter(file => file.responseStatus >= 400 && file.name.includes('/extensions/')).map(file => file.name)"""
OFFLINE = "Failed to fetch"  # what the page itself asks of the internet
VARIABLE = re.compile(r"\d[\d.:]*")  # times and sizes in the log


def clone(folder):
    if not (PACK / ".git").exists():
        pytest.skip("the pack is no git repository")
    subprocess.run(["git", "clone", "-q", "--depth=1", PACK.as_uri(), str(folder)], check=True)


def unpack(folder):
    archive = write_archive(folder.with_suffix(".zip"))
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    archive.unlink()


class Installed:
    """A pack in a folder of a clean ComfyUI, from its first start to its removal.

    Attributes:
        before: the pack's files before ComfyUI saw them.
        log: what ComfyUI said with the pack.
        run: the first template's.
    """

    def __init__(self, comfyui, install, name):
        self.name, self.comfyui = name, comfyui
        self.server = ComfyServer(comfyui, None)
        self.folder = self.server.base / "custom_nodes" / name
        install(self.folder)
        self.before = contents(self.folder)

    def prompt(self):
        return json.loads((self.folder / "workflows" / "api" / f"{FIRST}.json").read_text(encoding="utf-8"))

    def uninstall(self):
        """Deletes the folder, as ComfyUI Manager does, and starts ComfyUI again."""
        self.server.end()
        shutil.rmtree(self.folder)
        self.server.start()

    def url(self, path):
        return f"/extensions/{urllib.parse.quote(self.name)}/{urllib.parse.quote(path)}"


def contents(folder):
    """Size and time of every file; compiled Python, which Python itself writes, goes with the folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and not {".git", "__pycache__"} & {*path.parts}]
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def troubles(log):
    """Lines that tell of trouble, without what changes from start to start."""
    return {VARIABLE.sub("0", line) for line in log.splitlines() if TROUBLE.search(line)}


@pytest.fixture(scope="module", params=[(clone, "ComfyUI-Pusa"), (unpack, "pusa_comfy@1_2_3")], ids=["git", "archive"])
def installed(request, comfyui):
    pack = Installed(comfyui, *request.param)
    with pack.server:
        yield pack


def test_it_serves_what_the_page_asks_for(installed):
    server = installed.server
    scripts = [path for path in server.get("/extensions") if urllib.parse.unquote(path).split("/")[2] == installed.name]
    assert scripts
    for path in scripts:
        assert server.get_bytes(path)
    for path in (installed.folder / "web").rglob("*"):
        if path.is_file():
            assert server.get_bytes(installed.url(path.relative_to(installed.folder / "web").as_posix())), path
    words = server.get("/i18n")
    assert words["zh"]["nodeDefs"]["PusaKeyframe"]
    assert "pusaTimeline" in words["en"]


def test_it_lists_its_templates_with_pictures(installed):
    server = installed.server
    listed = server.get("/workflow_templates")[installed.name]
    assert sorted(listed) == sorted(TITLES.values())
    for title in listed:
        base = f"/api/workflow_templates/{urllib.parse.quote(installed.name)}/{urllib.parse.quote(title)}"
        assert server.get(f"{base}.json")["nodes"]
        assert server.get_bytes(f"{base}.jpg")[:2] == b"\xff\xd8"


def test_the_page_opens_a_template(installed):
    """Every script of ours, and what they fetch, is found under whatever name the folder has."""
    try:
        with open_page(installed.server.address) as page:
            template = urllib.parse.quote(TITLES[FIRST])
            graph = installed.server.get(f"/api/workflow_templates/{urllib.parse.quote(installed.name)}/{template}.json")
            loaded = page.load(graph)
            page.browser_page.wait_for_function("app.graph.nodes.some(n => n.widgets?.some(w => w.element?.isConnected))")
            assert all(node["known"] for node in loaded["nodes"])
            assert page.browser_page.evaluate(MISSING) == []
            assert [error for error in page.errors if error != OFFLINE] == []
    except NoBrowser as absent:
        pytest.skip(f"the page was not tested: {absent}")


def test_it_runs_the_first_template_and_writes_nothing_into_its_folder(installed):
    run = installed.server.run(installed.prompt())
    assert [path.suffix for path in run.files if path.is_file()] and run.status == "success"
    assert contents(installed.folder) == installed.before


def test_uninstalled_it_leaves_nothing(installed):
    """The last test of each: what is compared is the same ComfyUI with the pack and without it."""
    server, prompt = installed.server, installed.prompt()
    with_pack = server.log
    installed.uninstall()

    assert troubles(with_pack) <= troubles(server.log)
    assert f"{installed.name}" not in server.log and "pusa" not in server.log.lower().replace(str(server.base).lower(), "")
    assert left_behind(server.base) == []
    assert settings_left(server.base) <= {"Pusa.PageLanguage"}
    assert [name for name in server.object_info() if name.startswith("Pusa")] == []
    assert "pusa" not in json.dumps([server.get("/workflow_templates"), server.get("/extensions")]).lower()
    assert "pusa_demo" not in json.dumps(server.object_info("UNETLoader"))
    with pytest.raises(PromptRefused, match="Pusa"):
        server.queue(prompt)


def left_behind(base):
    """Files outside output/ that the pack brought or made."""
    files = [path.relative_to(base) for path in base.rglob("*") if path.is_file()]
    ours = [path for path in files if "pusa" in path.as_posix().lower() or path.parts[0] in ("input", "models", "temp")]
    return [path.as_posix() for path in ours if path.parts[0] != "output"]


def settings_left(base):
    """What the page keeps for a user under a name of ours, as of every extension that was ever installed."""
    path = base / "user" / "default" / "comfy.settings.json"
    return {key for key in json.loads(path.read_text(encoding="utf-8")) if "pusa" in key.lower()} if path.is_file() else set()
