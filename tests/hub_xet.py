"""Xet on the tests' Hub: what the Hub's client asks to upload large files since they go there by chunks.

The client cuts a file into chunks and packs them into xorbs, which go up first; then a shard says which chunks of which
xorbs a file is. The forms are those of Hugging Face's Xet protocol specification (spec/ of huggingface/xet-core): the
files are put together from their chunks here, and what is not what its sha256 says is refused.
"""

import hashlib
import re
import struct
import time
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tests.hub_server import Hub
from tests.hub_writes import Account

ENTRY = 48
"""Bytes of every entry of a shard; the first 32 of most are a hash."""
VERIFIED, DESCRIBED = 1 << 31, 1 << 30
"""Flags of a file in a shard: hashes of its parts follow, its sha256 follows."""
END = b"\xff" * 32


@dataclass
class XetAccount(Account):
    """An account whose large files arrive as xorbs. `uploads` names them; `put` is called with a xorb's hash."""

    xet_token: str = "aShortLivedTokenOfXet"
    xorbs: dict[str, list[bytes]] = field(default_factory=dict)
    """Hash -> chunks."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and authorization of each request to the storage."""

    def told(self, handler: Any, hub: Hub, path: str) -> bool:
        """Gives the token for the storage to whoever may write; knows no chunk that others have."""
        if re.match(r"^/api/(?:model|dataset)s/[^/]+/[^/]+/xet-write-token/main$", path):
            if not self._allowed(handler):
                handler.tell({"error": "Invalid credentials"}, status=401)
                return True
            given = {"accessToken": self.xet_token, "exp": int(time.time()) + 3600, "casUrl": hub.address}
            handler.tell(given)
            return True
        if path.startswith("/v1/chunks/"):
            self._note(handler, path)
            handler.send(404, b"", {}, True)
            return True
        return super().told(handler, hub, path)

    def answer(self, handler: Any, hub: Hub) -> bool:
        """Takes xorbs and shards; everything else is as without Xet, but for the uploads of LFS."""
        path = handler.path.partition("?")[0]
        if path.startswith(("/v1/xorb-grants/", "/v2/shards", "/v1/telemetry")):
            self._note(handler, path)
            handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
            handler.send(404, b"", {}, True)
            return True
        xorb = re.match(r"^/v1/xorbs/default/([0-9a-f]{64})$", path)
        if xorb is None and path != "/v1/shards":
            return not path.startswith("/lfs/") and super().answer(handler, hub)
        self._note(handler, path)
        length = int(handler.headers["Content-Length"])
        data = handler.rfile.read(length // 2)
        if handler.headers.get("Authorization") != f"Bearer {self.xet_token}":
            handler.close_connection = True
            handler.tell({"error": "no token of the storage"}, status=401)
            return True
        if xorb is not None:
            self.uploads.append(xorb[1])
            if not self.put(xorb[1]):
                handler.close_connection = True
                handler.connection.close()
                return True
        data += handler.rfile.read(length - len(data))
        status = self.refused(path)
        if status is not None:
            handler.tell({"error": "told to refuse"}, status=status)
        elif xorb is not None:
            new = xorb[1] not in self.xorbs
            self.xorbs[xorb[1]] = chunks_of(data)
            handler.tell({"was_inserted": new})
        else:
            for sha256, content in files_of(data, self.xorbs).items():
                assert hashlib.sha256(content).hexdigest() == sha256, "a file is not what its sha256 says"
                self.stored[sha256] = content
            handler.tell({"result": 1})
        return True

    def _note(self, handler: Any, path: str) -> None:
        self.asked.append((handler.command, path, handler.headers.get("Authorization")))


def name_of(digest: bytes) -> str:
    """A hash as it is written: four numbers of eight bytes, the last byte first."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


def chunks_of(xorb: bytes) -> list[bytes]:
    """The chunks of a xorb: each after a head of version, size, kind of compression, and size before it."""
    found, at = [], 0
    while at + 8 <= len(xorb) and xorb[at : at + 7] != b"XETBLOB":
        size, kind = int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
        whole = int.from_bytes(xorb[at + 5 : at + 8], "little")
        packed = xorb[at + 8 : at + 8 + size]
        plain = packed if kind == 0 else pa.Codec("lz4").decompress(packed, whole, asbytes=True)
        found.append(ungrouped(plain) if kind == 2 else plain)
        at += 8 + size
    return found


def ungrouped(grouped: bytes) -> bytes:
    """Bytes in their order, of which every first, second, third and fourth of four stood together."""
    plain, at = bytearray(len(grouped)), 0
    for first in range(4):
        count = len(range(first, len(grouped), 4))
        plain[first::4] = grouped[at : at + count]
        at += count
    return bytes(plain)


def files_of(shard: bytes, xorbs: dict[str, list[bytes]]) -> dict[str, bytes]:
    """sha256 -> content of the files of a shard; every xorb that it names has to be there."""
    found, at = {}, ENTRY
    while shard[at : at + 32] != END:
        flags, count = struct.unpack("<II", shard[at + 32 : at + 40])
        content = b""
        for number in range(count):
            start = at + ENTRY * (number + 1)
            first, last = struct.unpack("<II", shard[start + 40 : start + 48])
            content += b"".join(xorbs[name_of(shard[start : start + 32])][first:last])
        at += ENTRY * (1 + count * (2 if flags & VERIFIED else 1))
        if flags & DESCRIBED:
            found[name_of(shard[at : at + 32])] = content
            at += ENTRY
    return found
