"""What changes repositories on the tests' Hub: an account with a token, LFS uploads, commits with history, tags.

It answers what the Hub's client asks when Xet is off (HF_HUB_DISABLE_XET=1).
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hub_server import LARGE, Hub, Repository


@dataclass
class Written(Repository):
    """A repository with history: what was committed, newest last. `kind`: model or dataset."""

    kind: str = "model"
    private: bool = False
    history: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    """Commit, message, all files."""

    def commit_of(self, revision: str) -> str | None:
        known = {commit: commit for commit, _, _ in self.history}
        return {"main": self.commit, **known, **self.tags}.get(revision)

    def contents(self, commit: str) -> dict[str, bytes]:
        return next(files for known, _, files in self.history if known == commit)

    def add(self, message: str, files: dict[str, bytes]) -> str:
        """A commit on top; its hash follows from its content and its place."""
        told = [message, len(self.history), {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}]
        self.commit = hashlib.sha1(json.dumps([self.commit, *told], sort_keys=True).encode()).hexdigest()
        self.history.append((self.commit, message, files))
        return self.commit


@dataclass
class Account:
    """Who may write, with which token, and what arrived.

    `put` is called with the sha256 of an upload when half of its bytes are there; it may wait, or return False to cut
    the connection. `refuse`: part of a path -> status that is answered instead.
    """

    name: str
    token: str
    orgs: tuple[str, ...] = ()
    role: str = "write"
    stored: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> bytes of large files."""
    uploads: list[str] = field(default_factory=list)
    """The sha256 of every upload that was begun."""
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    put: Callable[[str], bool] = lambda sha256: True
    refuse: dict[str, int] = field(default_factory=dict)

    def told(self, handler: Any, hub: Hub, path: str) -> bool:
        """Answers a GET that only an account has; False: it is none."""
        if not path.startswith(("/api/whoami-v2", "/api/collections/")) and not path.endswith("/refs"):
            return False
        if not self._allowed(handler):
            handler.tell({"error": "Invalid credentials"}, status=401)
        elif path == "/api/whoami-v2":
            organisations = [{"name": name} for name in self.orgs]
            role = {"accessToken": {"displayName": "test", "role": self.role}}
            handler.tell({"name": self.name, "type": "user", "orgs": organisations, "auth": role})
        elif path.endswith("/refs"):
            repository = hub.repositories[path.split("/", 3)[3].removesuffix("/refs")]
            tags = [
                {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit}
                for name, commit in repository.tags.items()
            ]
            handler.tell({"branches": [], "converts": [], "tags": tags})
        else:
            handler.tell(self.collections[path.removeprefix("/api/collections/")])
        return True

    def answer(self, handler: Any, hub: Hub) -> bool:
        """Answers a POST, PUT or DELETE; False: nobody knows it."""
        path = handler.path.partition("?")[0]
        if handler.command == "PUT" and path.startswith("/lfs/"):
            self._store(handler, path.removeprefix("/lfs/"))
            return True
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        status = self.refused(path)
        if status is not None:
            handler.tell({"error": "told to refuse"}, status=status)
            return True
        if path == "/api/validate-yaml":
            handler.tell({"errors": [], "warnings": []})
            return True
        if not self._allowed(handler):
            handler.tell({"error": "Invalid credentials"}, status=401)
            return True
        if self.role == "read":
            handler.tell({"error": "this token may only read"}, status=403)
            return True
        routes: tuple[tuple[str, Callable[..., None]], ...] = (
            (r"^/api/repos/create$", self._create),
            (r"^/api/(?:model|dataset)s/(?P<repo>[^/]+/[^/]+)/preupload/[^/]+$", self._modes),
            (r"^/(?:datasets/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch$", self._batch),
            (r"^/api/(?:model|dataset)s/(?P<repo>[^/]+/[^/]+)/commit/main$", self._commit),
            (r"^/api/(?:model|dataset)s/(?P<repo>[^/]+/[^/]+)/tag/(?P<name>[^/]+)$", self._tag),
            (r"^/api/collections$", self._collection),
            (r"^/api/collections/(?P<slug>[^/]+/[^/]+)/items$", self._item),
        )
        for pattern, act in routes:
            match = re.match(pattern, path)
            if match:
                act(handler, hub, body, **match.groupdict())
                return True
        return False

    def refused(self, path: str) -> int | None:
        """The status that is answered instead of doing what is asked."""
        return next((status for part, status in self.refuse.items() if part in path), None)

    def _allowed(self, handler: Any) -> bool:
        return bool(handler.headers.get("Authorization") == f"Bearer {self.token}")

    def _create(self, handler: Any, hub: Hub, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked["organization"] or self.name
        name = f"{owner}/{asked['name']}"
        if owner not in (self.name, *self.orgs):
            return handler.tell({"error": f"no right to write for {owner}"}, status=403)
        if name in hub.repositories:
            return handler.tell({"error": "You already created this repo"}, status=409)
        private = asked.get("private") is True or asked.get("visibility") == "private"
        made = Written(
            Path("/nowhere"), "0" * 40, kind=asked.get("type") or "model", private=private,
            hidden=self.token if private else None,
        )  # fmt: skip
        made.add("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        hub.repositories[name] = made
        return handler.tell({"url": f"{hub.address}/{name}"})

    def _modes(self, handler: Any, hub: Hub, body: bytes, repo: str) -> None:
        paths = [one["path"] for one in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
        handler.tell({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def _batch(self, handler: Any, hub: Hub, body: bytes, repo: str) -> None:
        objects = []
        for one in json.loads(body)["objects"]:
            found = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.stored:
                found["actions"] = {"upload": {"href": f"{hub.address}/lfs/{one['oid']}", "header": {}}}
            objects.append(found)
        handler.tell({"transfer": "basic", "objects": objects})

    def _store(self, handler: Any, sha256: str) -> None:
        self.uploads.append(sha256)
        length = int(handler.headers["Content-Length"])
        data = handler.rfile.read(length // 2)
        if not self.put(sha256):
            handler.close_connection = True
            handler.connection.close()
            return
        data += handler.rfile.read(length - len(data))
        if hashlib.sha256(data).hexdigest() != sha256:
            handler.tell({"error": "not what it says"}, status=400)
            return
        self.stored[sha256] = data
        handler.send(200, b"", {}, True)

    def _commit(self, handler: Any, hub: Hub, body: bytes, repo: str) -> None:
        repository = hub.repositories[repo]
        assert isinstance(repository, Written)
        header, *operations = (json.loads(line) for line in body.splitlines())
        if header["value"].get("parentCommit") not in (None, repository.commit):
            return handler.tell({"error": "A commit has happened since"}, status=412)
        files = dict(repository.contents(repository.commit))
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.stored:
                    return handler.tell({"error": f"{value['path']} was not uploaded"}, status=400)
                files[value["path"]] = self.stored[value["oid"]]
            else:
                del files[value["path"]]
        made = repository.add(header["value"]["summary"], files)
        return handler.tell({"commitUrl": f"{hub.address}/{repo}/commit/{made}", "commitOid": made})

    def _tag(self, handler: Any, hub: Hub, body: bytes, repo: str, name: str) -> None:
        repository = hub.repositories[repo]
        if handler.command == "DELETE":
            del repository.tags[name]
            return handler.send(200, b"", {}, True)
        asked = json.loads(body)
        if asked["tag"] in repository.tags:
            return handler.tell({"error": "Tag exists"}, status=409)
        commit = repository.commit_of(name)
        assert commit is not None
        repository.tags[asked["tag"]] = commit
        return handler.send(200, b"", {}, True)

    def _collection(self, handler: Any, hub: Hub, body: bytes) -> None:
        asked = json.loads(body)
        slug = f"{asked['namespace']}/{asked['title'].lower().replace(' ', '-')}-0123456789abcdef01234567"
        if slug in self.collections:
            return handler.tell({"error": "exists", "slug": slug}, status=409)
        self.collections[slug] = {
            "slug": slug, "title": asked["title"], "owner": {"name": asked["namespace"]}, "items": [], "position": 0,
            "lastUpdated": "2026-01-01T00:00:00.000Z", "private": asked["private"], "theme": "blue", "upvotes": 0,
        }  # fmt: skip
        return handler.tell(self.collections[slug])

    def _item(self, handler: Any, hub: Hub, body: bytes, slug: str) -> None:
        asked, found = json.loads(body), self.collections[slug]
        items = found["items"]
        if asked["item"]["id"] in [one["id"] for one in items]:
            return handler.tell({"error": "exists"}, status=409)
        item = {"_id": f"{len(items):024x}", **asked["item"], "position": len(items)}
        items.append(item | ({"note": {"text": asked["note"]}} if "note" in asked else {}))
        return handler.tell(found)
