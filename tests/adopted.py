"""An adoption as `fusion adopt VARIANT/STAGE` leaves it, without its checks: any files do for a checkpoint."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion.hashing import file_sha256
from fusion.lineage.adopted import record_adoption

HUB = {"kind": "hub", "repo": "org/open", "revision": "0123456789abcdef0123456789abcdef01234567", "requested": "v1"}
FOLDER = {"kind": "folder", "name": "elsewhere"}


def adopt(
    root: Path,
    weights: bytes,
    origin: Mapping[str, Any] = HUB,
    *,
    place: str = "tiny/stage1_5",
    started: str = "2026-01-01T00:00:00.000+00:00",
) -> str:
    """Puts a checkpoint of one file in place of what is there, with its .dvc file and record; the record's path."""
    folder = root / "checkpoints" / place
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    listing = json.dumps([{"md5": hashlib.md5(weights).hexdigest(), "relpath": "model.safetensors"}])
    known = f"md5: {hashlib.md5(listing.encode()).hexdigest()}.dir\n  size: {len(weights)}\n  nfiles: 1\n  hash: md5"
    folder.with_suffix(".dvc").write_text(f"outs:\n- {known}\n  path: {folder.name}\n")
    named = origin["repo"] if origin["kind"] == "hub" else origin["name"]
    facts = {
        "origin": dict(origin), "stage": folder.name, "name": place, "left_out": [], "parameters": 12,
        "files": {"model.safetensors": {"sha256": file_sha256(folder / "model.safetensors"), "size": len(weights)}},
        "licence": {"declared": "mit", "follows": "Llama 3.1 Community License Agreement", "obligations": []},
    }  # fmt: skip
    stage = f"adopt@{place.replace('/', '-')}"
    run = {"started": started, "ended": started, "seconds": 1.0, "peak_memory_bytes": 1}
    path = f"checkpoints/{place}"
    return record_adoption(stage, f"fusion adopt {named.rpartition('/')[2]}", {"adopt": facts}, path, run, root)
