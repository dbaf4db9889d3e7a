"""A real ComfyUI in a process of its own, with the pack installed as a user installs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

from .comfyui import PACK

PACK_NAME = "comfyui-pusa"
FOLDERS = ("diffusion_models", "vae", "loras", "text_encoders")
ENDINGS = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "interrupted",
}


class ServerFailed(RuntimeError):
    """ComfyUI did not start, or died; the message ends with its log."""


class PromptRefused(RuntimeError):
    """ComfyUI's validation refused a prompt; `errors` is its JSON answer."""

    def __init__(self, errors: dict):
        super().__init__(json.dumps(errors, indent=1))
        self.errors = errors


class ExecutionFailed(RuntimeError):
    """A node raised; `error` is ComfyUI's execution_error message (node_id, node_type, exception_message, ...)."""

    def __init__(self, error: dict):
        trace = "".join(error.get("traceback", []))
        super().__init__(f"{error.get('node_type')}: {error.get('exception_message')}\n{trace}")
        self.error = error


@dataclass
class Run:
    """What came back from one queued prompt."""

    id: str
    status: str  # success, error, interrupted
    messages: list[dict]  # the websocket's JSON messages of this prompt, in order
    previews: list[bytes]  # image files, as sent during sampling
    outputs: dict[str, dict] = field(default_factory=dict)  # node id -> its UI output
    files: list[Path] = field(default_factory=list)  # what was saved

    @property
    def progress(self) -> list[tuple[str, int, int]]:
        """The progress events: (node id, value, max)."""
        events = [m["data"] for m in self.messages if m["type"] == "progress"]
        return [(e.get("node"), e["value"], e["max"]) for e in events]

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that ran, in order; cached ones are missing."""
        nodes = [m["data"].get("node") for m in self.messages if m["type"] == "executing"]
        return [node for node in nodes if node is not None]


class ComfyServer:
    """Starts ComfyUI in a fresh base directory and talks to it; a context manager that always ends it.

    with ComfyServer(find_comfyui()) as server:
        run = server.run(prompt)
    """

    def __init__(
        self,
        comfyui: Path,
        pack: Path | None = PACK,
        *,
        more_packs: Sequence[Path] = (),
        extra_args: tuple[str, ...] = (),
        timeout: float = 180,
    ):
        self.comfyui = Path(comfyui)
        self.timeout = timeout
        self.base = Path(tempfile.mkdtemp(prefix="pusa-comfyui-"))
        self.port = _free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.client_id = uuid.uuid4().hex
        self.started_in = 0.0  # seconds
        self._extra_args = extra_args
        self._process: subprocess.Popen | None = None
        self._socket: websocket.WebSocket | None = None
        self._listener: threading.Thread | None = None
        self._news = threading.Condition()
        self._messages: list[dict] = []
        self._previews: list[tuple[str | None, bytes]] = []  # (prompt id, image file)
        self._running: str | None = None
        for folder in (*(f"models/{f}" for f in FOLDERS), "input", "output", "temp", "user", "custom_nodes"):
            (self.base / folder).mkdir(parents=True)
        if pack is not None:
            _install(Path(pack), self.base / "custom_nodes" / PACK_NAME)
        for other in more_packs:
            _install(other, self.base / "custom_nodes" / other.name)

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> ComfyServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        command = [
            sys.executable, "-u", str(self.comfyui / "main.py"), "--cpu", "--port", str(self.port),
            "--base-directory", str(self.base), "--disable-auto-launch", "--use-pytorch-cross-attention",
            "--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--preview-method", "latent2rgb",
            *self._extra_args,
        ]  # fmt: skip
        begun = time.monotonic()
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.comfyui, env=_environment(self.base), stdout=log, stderr=subprocess.STDOUT
            )
        while not self._answers():
            if time.monotonic() - begun > self.timeout:
                raise ServerFailed(f"ComfyUI did not answer within {self.timeout:.0f} s.\n{self.log_tail()}")
            time.sleep(0.1)
        self._socket = websocket.create_connection(
            f"ws://{self.address}/ws?clientId={self.client_id}", timeout=None, http_no_proxy=["127.0.0.1"]
        )
        self._listener = threading.Thread(target=self._listen, args=(self._socket,), daemon=True)
        self._listener.start()
        self.started_in = time.monotonic() - begun

    def stop(self) -> None:
        """Ends ComfyUI and removes its base directory."""
        self.end()
        shutil.rmtree(self.base, ignore_errors=True)

    def end(self) -> None:
        """Ends ComfyUI; `start` starts it again on the same base directory."""
        if self._socket is not None:
            with contextlib.suppress(OSError, websocket.WebSocketException):
                self._socket.shutdown()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _answers(self) -> bool:
        self._check_alive()
        try:
            self.get("/system_stats", timeout=5)
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is not None:
            code = None if self._process is None else self._process.returncode
            raise ServerFailed(f"ComfyUI is not running (exit code {code}).\n{self.log_tail()}")

    # --- log ---------------------------------------------------------------------------------------------------------

    @property
    def _log_path(self) -> Path:
        return self.base / "server.log"

    @property
    def log(self) -> str:
        """Everything ComfyUI has printed so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace") if self._log_path.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.splitlines()[-lines:])

    # --- requests ----------------------------------------------------------------------------------------------------

    def get(self, path: str, timeout: float = 60) -> Any:
        """The JSON answer to GET path."""
        return self._request(urllib.request.Request(f"http://{self.address}{path}"), timeout)

    def get_bytes(self, path: str, timeout: float = 60) -> bytes:
        """The raw answer to GET path, e.g. a web file."""
        with _OPENER.open(f"http://{self.address}{path}", timeout=timeout) as answer:
            return answer.read()

    def post(self, path: str, data: Any, timeout: float = 60) -> Any:
        """The JSON answer to POST path with a JSON body."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(data).encode(), headers)
        return self._request(request, timeout)

    def _request(self, request: urllib.request.Request, timeout: float) -> Any:
        with _OPENER.open(request, timeout=timeout) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def object_info(self, node: str | None = None) -> dict:
        """What ComfyUI tells its web page about all nodes, or the entry of one."""
        info = self.get(f"/object_info/{urllib.parse.quote(node)}" if node else "/object_info")
        return info[node] if node else info

    def history(self, prompt_id: str) -> dict:
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def interrupt(self) -> None:
        """Stops the prompt that runs, as the web page's button does."""
        self.post("/interrupt", {})

    def upload(self, path: str | Path) -> str:
        """Uploads a file to input/, as the web page does; returns the name to use in a loader node."""
        path = Path(path)
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n\r\n'
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(f"http://{self.address}/upload/image", body, headers)
        return self._request(request, 60)["name"]

    # --- prompts -----------------------------------------------------------------------------------------------------

    def queue(self, prompt: dict, extra: dict | None = None) -> str:
        """Queues an API prompt; returns its id. extra: extra_data, e.g. {"extra_pnginfo": {"workflow": {...}}}."""
        data = {"prompt": prompt, "client_id": self.client_id, "extra_data": extra or {}}
        try:
            return self.post("/prompt", data)["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise PromptRefused(json.loads(error.read())) from None

    def wait(self, prompt_id: str, timeout: float = 180) -> Run:
        """Waits until a prompt has ended in any way; raises TimeoutError or ServerFailed."""
        deadline = time.monotonic() + timeout
        while (ending := self._ending(prompt_id)) is None:
            self._check_alive()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the prompt did not end within {timeout:.0f} s\n{self.log_tail()}")
            with self._news:
                self._news.wait(0.5)
        history = self._history_of_ended(prompt_id)
        run = Run(prompt_id, ENDINGS[ending["type"]], self.messages(prompt_id), self.previews(prompt_id))
        run.outputs = history.get("outputs", {})
        run.files = self.outputs(run.outputs)
        return run

    def run(self, prompt: dict, extra: dict | None = None, timeout: float = 180) -> Run:
        """Queues a prompt and waits; raises ExecutionFailed where a node raised."""
        run = self.wait(self.queue(prompt, extra), timeout)
        if run.status == "error":
            raise ExecutionFailed(next(m["data"] for m in run.messages if m["type"] == "execution_error"))
        return run

    def outputs(self, ui: dict[str, dict]) -> list[Path]:
        """The files that a history entry's outputs name."""
        folders = {"output": self.base / "output", "temp": self.base / "temp", "input": self.base / "input"}
        items = [item for node in ui.values() for value in node.values() if isinstance(value, list) for item in value]
        named = [item for item in items if isinstance(item, dict) and "filename" in item]
        return [folders[i.get("type", "output")] / i.get("subfolder", "") / i["filename"] for i in named]

    def messages(self, prompt_id: str) -> list[dict]:
        """The JSON messages of one prompt so far."""
        with self._news:
            return [m for m in self._messages if m["data"].get("prompt_id") == prompt_id]

    def previews(self, prompt_id: str) -> list[bytes]:
        """The preview images of one prompt so far, as image files."""
        with self._news:
            return [image for owner, image in self._previews if owner == prompt_id]

    def wait_for(self, kind: str, prompt_id: str, timeout: float = 60) -> dict:
        """Waits for the first message of a kind ("progress", ...) of a running prompt; returns its data."""
        deadline = time.monotonic() + timeout
        while True:
            found = next((m for m in self.messages(prompt_id) if m["type"] == kind), None)
            if found:
                return found["data"]
            self._check_alive()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {kind} message within {timeout:.0f} s\n{self.log_tail()}")
            with self._news:
                self._news.wait(0.5)

    def _ending(self, prompt_id: str) -> dict | None:
        return next((m for m in self.messages(prompt_id) if m["type"] in ENDINGS), None)

    def _history_of_ended(self, prompt_id: str, timeout: float = 10) -> dict:
        """History is written a moment after the last message."""
        deadline = time.monotonic() + timeout
        while not (history := self.history(prompt_id)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return history

    def _listen(self, socket: websocket.WebSocket) -> None:
        while True:
            try:
                opcode, data = socket.recv_data()
            except (OSError, websocket.WebSocketException):
                return
            with self._news:
                if opcode == websocket.ABNF.OPCODE_TEXT:
                    self._note(json.loads(data))
                elif opcode == websocket.ABNF.OPCODE_BINARY and data[:4] == b"\0\0\0\1":
                    self._previews.append((self._running, data[8:]))  # after two numbers: kind, image type
                elif opcode == websocket.ABNF.OPCODE_CLOSE:
                    return
                self._news.notify_all()

    def _note(self, message: dict) -> None:
        self._messages.append(message)
        if message["type"] == "execution_start":
            self._running = message["data"]["prompt_id"]


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # 127.0.0.1 through no proxy


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _install(pack: Path, at: Path) -> None:
    if os.name == "nt":
        shutil.copytree(pack, at, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", "tests"))
    else:
        at.symlink_to(pack, target_is_directory=True)


def _environment(base: Path) -> dict[str, str]:
    """The test's environment without what steers Python, this pack's tests, proxies or model caches."""
    unwanted = re.compile(r"PYTHON(?!USERBASE)|PUSA_|PYTEST|COMFYUI|HF_|TRANSFORMERS|.*_PROXY$", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not unwanted.match(name)}
    return kept | {
        "HF_HOME": str(base / "cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONIOENCODING": "utf-8",
    }
