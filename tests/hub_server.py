"""A server on loopback that answers like the Hub, as far as listings, downloads and uploads ask: for tests.

What is read is here; what changes repositories is in tests/hub_writes.py, for a server with an `Account`.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LARGE = (".safetensors", ".bin", ".tar", ".zip", ".png")
"""Endings of files that are kept apart from git, by their sha256."""


@dataclass
class Repository:
    """A repository of one commit, asked for as a model or as a data set.

    `corrupt` names files whose bytes are not what the listing says. `halfway` is called when half of a file's bytes
    were sent, with its name.
    """

    folder: Path
    commit: str
    tags: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """The token that a gated repository asks for."""
    corrupt: set[str] = field(default_factory=set)
    halfway: Callable[[str], None] | None = None
    hidden: str | None = None
    """The token without which a private repository is not there."""

    def commit_of(self, revision: str) -> str | None:
        """The commit of a branch, tag or commit; None for an unknown one."""
        return {"main": self.commit, self.commit: self.commit, **self.tags}.get(revision)

    def contents(self, commit: str) -> dict[str, bytes]:
        """Name -> bytes of each file at a commit."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}

    def files(self, commit: str) -> list[dict[str, Any]]:
        """The listing: git's hash for small files, sha256 for weights, as the Hub has it."""
        listed = []
        for name, data in self.contents(commit).items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            listed.append(entry)
        return listed

    def tree(self, commit: str) -> list[dict[str, Any]]:
        """The same as a tree's listing has it."""
        listed = []
        for entry in self.files(commit):
            found = {"type": "file", "path": entry["rfilename"], "size": entry["size"], "oid": entry["blobId"]}
            if "lfs" in entry:
                lfs = entry["lfs"]
                found["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            listed.append(found)
        return listed


@dataclass
class Hub:
    """The running server: its address, its repositories by name, and every request it got."""

    address: str
    repositories: dict[str, Repository]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    ranges: list[tuple[str, int | None]] = field(default_factory=list)
    """Each file that was asked for, and from which byte on if not from the first."""
    writes: Any = None
    """The `Account` of tests/hub_writes.py that may change repositories; None: nobody may."""


@contextmanager
def hub_server(repositories: dict[str, Repository], writes: Any = None) -> Iterator[Hub]:
    """Serves until the body ends."""
    hub = Hub("", repositories, writes=writes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def change(self) -> None:
            hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
            if hub.writes is None or not hub.writes.answer(self, hub):
                self.close_connection = True  # Its body was not read.
                self.send(405, b"{}", {}, True)

        do_POST = do_PUT = do_DELETE = change

        def answer(self, body: bool) -> None:
            given = self.headers.get("Authorization")
            hub.requests.append((self.command, self.path, given))
            path = self.path.partition("?")[0]
            if hub.writes is not None and hub.writes.told(self, hub, path):
                return None
            path = path.replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
            path, _, inside = path.partition("/tree/main/") if path.startswith("/api/") else (path, "", "")
            path += "/tree/main" if inside else ""
            match = re.match(r"^/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/([^/]+))?$", path) or re.match(
                r"^/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path
            )
            repository = repositories.get(match[1]) if match else None
            hidden = repository is not None and repository.hidden is not None and given != f"Bearer {repository.hidden}"
            if match is None or repository is None or hidden:
                return self.send(401, b"", {"X-Error-Code": "RepoNotFound"}, body)
            if repository.token is not None and given != f"Bearer {repository.token}":
                return self.send(403 if given else 401, b"", {"X-Error-Code": "GatedRepo"}, body)
            commit = repository.commit_of(match[2] or "main")
            if commit is None:
                return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
            if "/tree/" in path and match.re.groups == 2:
                listed = [one for one in repository.tree(commit) if one["path"].startswith(inside)]
                if inside and not listed:
                    return self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
                return self.tell(listed, body)
            if match.re.groups == 2:
                return self.tell({"id": match[1], "sha": commit, "siblings": repository.files(commit)}, body)
            data = repository.contents(commit).get(match[3])
            if data is None:
                return self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            etag = hashlib.sha256(data).hexdigest()
            if match[3] in repository.corrupt:
                data = data[:-1] + bytes([data[-1] ^ 1])
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            asked = re.match(r"^bytes=(\d+)-$", self.headers.get("Range") or "")
            hub.ranges.append((match[3], int(asked[1]) if asked else None))
            if asked is None:
                return self.send(200, data, headers, body, lambda: repository.halfway and repository.halfway(match[3]))
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(206, data[start:], headers, body)

        def tell(self, document: Any, body: bool = True, status: int = 200) -> None:
            self.send(status, json.dumps(document).encode(), {"Content-Type": "application/json"}, body)

        def send(
            self,
            status: int,
            data: bytes,
            headers: dict[str, str],
            body: bool,
            halfway: Callable[[], object] = lambda: None,
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2])
                halfway()
                self.wfile.write(data[len(data) // 2 :])

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
