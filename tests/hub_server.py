"""A server on loopback that answers like the Hub, as far as `model_info` and downloads ask: for tests."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Repository:
    """A model repository of one commit. `corrupt` names files whose bytes are not what the listing says."""

    folder: Path
    commit: str
    tags: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """The token that a gated repository asks for."""
    corrupt: set[str] = field(default_factory=set)

    def commit_of(self, revision: str) -> str | None:
        """The commit of a branch, tag or commit; None for an unknown one."""
        return {"main": self.commit, self.commit: self.commit, **self.tags}.get(revision)

    def files(self) -> list[dict[str, Any]]:
        """The listing: git's hash for small files, sha256 for weights, as the Hub has it."""
        listed = []
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                data = path.read_bytes()
                git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                entry = {"rfilename": path.relative_to(self.folder).as_posix(), "size": len(data), "blobId": git}
                if path.suffix in (".safetensors", ".bin"):
                    sha256 = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
                listed.append(entry)
        return listed


@dataclass
class Hub:
    """The running server: its address, its repositories by name, and every request it got."""

    address: str
    repositories: dict[str, Repository]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def hub_server(repositories: dict[str, Repository]) -> Iterator[Hub]:
    """Serves until the body ends."""
    hub = Hub("", repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, body: bool) -> None:
            given = self.headers.get("Authorization")
            hub.requests.append((self.command, self.path, given))
            path = self.path.partition("?")[0]
            match = re.match(r"^/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?$", path) or re.match(
                r"^/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path
            )
            repository = repositories.get(match[1]) if match else None
            if match is None or repository is None:
                return self.send(401, b"", {"X-Error-Code": "RepoNotFound"}, body)
            if repository.token is not None and given != f"Bearer {repository.token}":
                return self.send(403 if given else 401, b"", {"X-Error-Code": "GatedRepo"}, body)
            commit = repository.commit_of(match[2] or "main")
            if commit is None:
                return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
            if match.re.groups == 2:
                document = {"id": match[1], "sha": commit, "siblings": repository.files()}
                return self.send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}, body)
            file = repository.folder / match[3]
            if not file.is_file():
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            data = file.read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            if match[3] in repository.corrupt:
                data = data[:-1] + bytes([data[-1] ^ 1])
            return self.send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, body)

        def send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
