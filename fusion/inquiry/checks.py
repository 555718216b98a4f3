"""What can be said of a package's folder without the repository that made it: files, lineage, provenance, signature."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fusion.hashing import file_sha256
from fusion.lineage.digests import ReadyHasher
from fusion.lineage.errors import LineageError
from fusion.lineage.family import Family, family_of_document
from fusion.lineage.files import files_below

SIGNATURE, PROVENANCE, BOM = "model.sig", "provenance.json", "mlbom.cdx.json"
ADDED = frozenset(
    {"README.md", "LICENSE", "NOTICE", "lineage.json", "curves.png", SIGNATURE, PROVENANCE, BOM, ".gitattributes"}
)
ADDED_FOLDERS = ("croissant/", "licences/", ".cache/", ".git/")
"""What of a package is no part of the checkpoint that was evaluated."""
ALLOWED = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md", ".sig")
State = Literal["passed", "FAILED", "not checked"]


@dataclass(frozen=True)
class Check:
    """One question and its answer."""

    name: str
    state: State
    what: str


def check_folder(folder: Path, key: Path | None, signed: bool) -> list[Check]:
    """All checks of a package. `key`: the publisher's public key; `signed`: no signature is a failure."""
    return list(_checks(folder, key, signed))


def _checks(folder: Path, key: Path | None, signed: bool) -> Iterator[Check]:
    yield _files(folder)
    try:
        family = family_of_document(json.loads((folder / "lineage.json").read_text(encoding="utf-8")), str(folder))
        yield Check("lineage", "passed", f"{len(family.members)} runs, digest {family.digest}")
    except (OSError, ValueError, LineageError) as error:
        yield Check("lineage", "FAILED", f"lineage.json: {error}")
        family = None
    if family is not None:
        yield _weights(folder, family)
        yield _card(folder, family)
    yield _provenance(folder, family)
    yield check_signature(folder, key, signed)


def _files(folder: Path) -> Check:
    """No file can run code when it is loaded, and the weights can be read."""
    names = sorted(name for name in files_below(folder) if not name.startswith((".cache/", ".git/")))
    strange = [name for name in names if not name.endswith(ALLOWED) and name not in ADDED]
    if strange:
        return Check("files", "FAILED", f"files that do not belong into a package: {', '.join(strange)}")
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        return Check("files", "FAILED", "there are no weights (*.safetensors)")
    for name in weights:
        fault = _header_fault(folder / name)
        if fault:
            return Check("files", "FAILED", f"{name}: {fault}")
    return Check("files", "passed", f"{len(names)} files, weights in safetensors, nothing that can run")


def _header_fault(path: Path) -> str | None:
    """What is wrong with the header of a safetensors file: its tensors have to fill the file exactly."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return "it is cut short"
        try:
            header = json.loads(file.read(length))
            end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return f"its header cannot be read ({error!r})"
    return None if 8 + length + end == size else f"it has {size} bytes, its header tells of {8 + length + end}"


def _weights(folder: Path, family: Family) -> Check:
    """The checkpoint's files are those that the last training run wrote, and that were evaluated."""
    trained = [m for m in family.members.values() if m.stage.startswith("train_")]
    if not trained:
        return Check("weights", "not checked", "the lineage tells of no training")
    made = {path: sha for m in trained for path, sha in m.record.outputs.items() if path.startswith("checkpoints/")}
    hasher = ReadyHasher(folder)
    hasher.prepare(["."], "verify")
    files = {n: sha for n, sha in hasher.files(".").items() if n not in ADDED and not n.startswith(ADDED_FOLDERS)}
    import hashlib

    content = hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()).hexdigest()
    found = [path for path, sha in made.items() if sha == content]
    if not found:
        return Check(
            "weights", "FAILED", "weights, configuration or tokenizer are not what any training run behind it wrote"
        )
    judged = [
        m.stage for m in family.members.values() if m.stage.startswith("evaluate") and found[-1] in m.record.inputs
    ]
    which = f"exactly those of {found[-1]}"
    return Check(
        "weights", "passed", f"{which}, which were evaluated" if judged else f"{which}; no evaluation is recorded"
    )


def _card(folder: Path, family: Family) -> Check:
    path = folder / "README.md"
    if not path.is_file():
        return Check("card", "FAILED", "there is no README.md")
    stated = re.findall(r"\b[0-9a-f]{64}\b", path.read_text(encoding="utf-8", errors="replace"))
    if family.digest in stated:
        return Check("card", "passed", "the model card states this lineage")
    return Check("card", "FAILED", "the model card does not state the digest of this lineage")


def _provenance(folder: Path, family: Family | None) -> Check:
    path = folder / PROVENANCE
    if not path.is_file():
        return Check("provenance", "not checked", f"there is no {PROVENANCE}")
    try:
        statement: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
        parameters = statement["predicate"]["buildDefinition"]["internalParameters"]
    except (ValueError, KeyError, TypeError) as error:
        return Check("provenance", "FAILED", f"{PROVENANCE} is no statement that can be read ({error!r})")
    wrong = sorted(
        name for name, sha in subjects.items() if not (folder / name).is_file() or file_sha256(folder / name) != sha
    )
    if wrong:
        return Check("provenance", "FAILED", f"not as the statement says: {', '.join(wrong)}")
    if family is not None and parameters.get("lineageDigest") != family.digest:
        return Check("provenance", "FAILED", "the statement is about another lineage")
    return Check("provenance", "passed", f"{len(subjects)} files are as the statement says")


def check_signature(folder: Path, key: Path | None, signed: bool) -> Check:
    """Whether all files are those that the owner of the key has signed, no one more and no one less."""
    if not (folder / SIGNATURE).is_file():
        required = signed or key is not None
        return Check("signature", "FAILED" if required else "not checked", f"there is no {SIGNATURE}")
    if key is None:
        return Check("signature", "FAILED" if signed else "not checked", "signed; name the publisher's key with --key")
    from fusion.inquiry.signing import verify_signature

    fault = verify_signature(folder, key)
    if fault:
        return Check("signature", "FAILED", fault)
    return Check("signature", "passed", f"signed with the key in {key.name}")
