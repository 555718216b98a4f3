"""Notifications, against a server on loopback: what arrives, and that nothing about them can hurt a run."""

import http.server
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest


class Listener(http.server.ThreadingHTTPServer):
    """Keeps what is posted to it; may be told to be slow or to fail."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any]] = []
        self.answer = 204
        self.release = threading.Event()
        self.release.set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hooks/a-secret-path"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.release.wait(60)
        self.server.posted.append((self.path, json.loads(body)))
        self.send_response(self.server.answer)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    server = Listener()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FUSION_NOTIFY_URL", server.address)
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def ended(message: str | None) -> tuple[Any, Any, Any]:
    """What Prefect hands to a hook."""
    from prefect import flow
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Failed

    def night() -> None: ...

    return flow(night), FlowRun(flow_id=uuid.uuid4(), name="quiet-otter"), Failed(message=message)


def test_the_reason_and_the_page_are_told_and_no_secret(listener, monkeypatch):
    """That Prefect calls the hook of a run that fails is tested with a server, in test_postgres.py."""
    from prefect.settings import PREFECT_UI_URL, temporary_settings

    from flows.notify import notify

    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret_0123")
    flow, flow_run, state = ended("validate: error: 3 of 9 failed, hf_planted_secret_0123\ndetails")
    with temporary_settings({PREFECT_UI_URL: "http://127.0.0.1:4200"}):
        notify(flow, flow_run, state)
    ((path, told),) = listener.posted
    assert path == "/hooks/a-secret-path"
    assert told == {
        "flow": "night",
        "run": "quiet-otter",
        "state": "Failed",
        "reason": "validate: error: 3 of 9 failed, ***",
        "link": f"http://127.0.0.1:4200/runs/flow-run/{flow_run.id}",
        "text": "\n".join(("night quiet-otter: Failed", told["reason"], told["link"])),
    }


def test_a_slow_broken_or_missing_server_never_hurts(listener, monkeypatch, caplog):
    from flows import notify as module

    monkeypatch.setattr(module, "SECONDS", 1.0)
    caplog.set_level(logging.WARNING)
    listener.release.clear()
    began = time.monotonic()
    module.notify(*ended("slow"))
    assert time.monotonic() - began < 5 and "did not take it within" in caplog.text
    listener.release.set()
    while not listener.posted:
        time.sleep(0.05)

    listener.answer = 500
    module.notify(*ended("refused"))
    for address in (listener.address.replace(str(listener.server_address[1]), "9"), "file:///etc/passwd", "nonsense"):
        monkeypatch.setenv("FUSION_NOTIFY_URL", address)
        module.notify(*ended(None))
    assert caplog.text.count("no notification was sent") == 5
    assert "a-secret-path" not in caplog.text


def test_without_an_address_nothing_is_sent(listener, monkeypatch):
    from flows.notify import notify

    monkeypatch.delenv("FUSION_NOTIFY_URL")
    notify(*ended("nobody asked"))
    assert listener.posted == []
