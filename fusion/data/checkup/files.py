"""Whether a source's files are there, and what they may be called instead."""

import difflib
import json
import re
from itertools import islice
from pathlib import Path

from fusion.data.checkup.told import FAIL, NOTE, OK, Finding
from fusion.data.errors import DataError
from fusion.data.ingest.origin import Layout, PublishedOrigin

_LISTED = 2000
_SHOWN = 8
_HEAD = 4096
_DATA = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def find_layout(origin: PublishedOrigin, dataset: str, folder: str | None) -> tuple[Layout | None, list[Finding]]:
    """The source on this machine, None if it is not there, and what there is to say about that."""
    repo, revision = getattr(origin, "repo", None), getattr(origin, "revision", None)
    if folder is None:
        advice = f"write into params.yaml, under data: roots: {{{dataset}: /path/to/the/folder}}"
        if repo is None:
            return None, [(FAIL, "no folder is given for this data set", advice)]
        if revision is None:
            told = f"neither a folder is given nor a revision of {repo} pinned"
            return None, [(FAIL, told, f"pin a commit as `revision` in data/catalog/, or {advice}")]
        told = f"lies on the Hub, {repo}@{revision}: not looked at, ingest would download it"
        return None, [(NOTE, told, f"to have it checked, download it and {advice}")]
    try:
        layout = origin.layout(folder)
    except DataError as error:
        return None, [(FAIL, str(error), _missing_advice(Path(folder), getattr(origin, "file", "")))]
    return layout, [(OK, f"{getattr(origin, 'file', layout.annotations)} is there", "")]


def _missing_advice(folder: Path, file: str) -> str:
    if not folder.is_dir():
        return _near_folder(folder)
    if file and not (folder / file).is_file():
        if Path(file).is_absolute():
            return "`file` in data/catalog/ is relative to the folder of data.roots"
        found = [path.relative_to(folder).as_posix() for path in islice(folder.rglob("*"), _LISTED) if _is_data(path)]
        same = [name for name in found if Path(name).name.lower() == Path(file).name.lower()]
        close = same or difflib.get_close_matches(file, found, 1, cutoff=0.6)
        if close:
            return f"write `file: {close[0]}` in data/catalog/: paths are exact, capital letters too"
        listed = ", ".join(sorted(found)[:_SHOWN]) or "no annotation file at all"
        return f"the folder holds {listed}: write the name of one of them as `file` in data/catalog/"
    return "mend the file or the entry in data/catalog/ as the message says"


def _near_folder(folder: Path) -> str:
    parent = folder
    while not parent.is_dir() and parent != parent.parent:
        parent = parent.parent
    names = sorted(path.name for path in islice(parent.iterdir(), _LISTED) if path.is_dir())
    told = f"{parent.resolve()} holds {', '.join(names[:_SHOWN]) or 'no folder'}"
    return f"a relative path starts in the project's folder; {told}"


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in _DATA and path.is_file()


def reading_advice(path: Path) -> str:
    """What may mend an annotation file that cannot be read, judged by how it starts."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or head[:64].count(b"\0") > 8:
        return f"it looks like UTF-16: iconv -f utf-16 -t utf-8 {path.name} > new.json"
    if head.startswith(b"\x1f\x8b"):
        return "it is compressed: unpack it with gunzip"
    if head.startswith(b"PK\x03\x04"):
        return "it is a zip archive or an office file: unpack or export it"
    if head.startswith(b"PAR1"):
        return "it is a parquet file: use an origin of kind `table`"
    text = head.decode("utf-8", "replace").lstrip("\ufeff").lstrip()
    if not text:
        return "the file is empty"
    if wrapped := re.match(r'\{\s*"([^"]{1,40})"\s*:\s*\[\s*\{\s*"(?!from"|role")', text):
        return f"the samples stand inside an object, under `{wrapped[1]}`: {unwrap(wrapped[1])}"
    if text[0] not in "[{":
        kind = "a table" if re.match(r"[^\n]+[,\t;][^\n]*\n", text) else "no JSON"
        return f"it looks like {kind}, not like JSON: for CSV, TSV or parquet use an origin of kind `table`"
    if "'" in text[:20] and '"' not in text[:20]:
        return "JSON has double quotes: this looks like Python's way of printing; write it with json.dump"
    if not _utf8(path):
        return "save it as UTF-8, for example with iconv -f latin1 -t utf-8"
    return "mend the file at that place, or write it again with a JSON library"


def unwrap(key: str) -> str:
    """The advice for samples inside an object."""
    return f"keep only that list, for example with jq {json.dumps(f'.[{json.dumps(key)}]')} old.json > new.json"


def _utf8(path: Path) -> bool:
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            data = rest + chunk
            try:
                data.decode("utf-8")
                rest = b""
            except UnicodeDecodeError as error:
                if len(data) - error.start > 3:
                    return False
                rest = data[error.start :]
    return not rest
