"""A curated data set described in Croissant 1.0, the JSON-LD vocabulary for machine-learning data sets.

Files are the manifest and the shards, each with size and sha256. Record sets: `samples`, the manifest's rows, which say
what is kept; `conversations`, the records inside the shards, which also hold what was rejected; `sources`, with
origin, licence and counts. Source: https://docs.mlcommons.org/croissant/docs/croissant-spec.html.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fusion.data.errors import DataError
from fusion.data.store.folders import parquet_file, read_json, read_parquet
from fusion.files import write_json
from fusion.hashing import file_sha256

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog, Dataset, Source

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MANIFEST = "manifest"
_RECORDS = "records"
_FIELDS = {
    "sample_id": "Identity of the sample for ever: data set, source, row",
    "source": "Source in the data set",
    "file": "Annotation file of the source",
    "row": "Row in that file, from 0 on",
    "category": "Category of the source",
    "licence_declared": "Licence that the source declares",
    "licence_verified": "Licence that somebody has checked; null: nobody has",
    "shard": "Tar file that holds the sample",
    "record_offset": "Byte of the shard at which the record begins",
    "record_size": "Bytes of the record",
    "image_offset": "Byte of the shard at which the picture begins; null: no picture",
    "image_size": "Bytes of the picture",
    "sha256": "Of the record",
    "image_sha256": "Of the picture",
    "width": "Of the picture, in pixels",
    "height": "Of the picture, in pixels",
    "turns": "Answers in the conversation",
    "draws": "How often an epoch draws the sample",
}
_RECORD_FIELDS = {
    "file": ("filename", "Row in the source's annotation file, as eight digits, and .json"),
    "record": ("content", "JSON: `id` as in `samples`, `conversations` (`from` and `value` of each message), `image`"),
}
_SOURCES = {
    "source": ("sc:Text", "Source in the data set"),
    "category": ("sc:Text", "Category of the source"),
    "origin": ("sc:Text", "Where the source comes from, with its settings, as JSON"),
    "sampling": ("sc:Text", "Which rows of the source were taken"),
    "licence_declared": ("sc:Text", "Licence that the source declares; null: none is known"),
    "licence_verified": ("sc:Text", "Licence that somebody has checked; null: nobody has"),
    "ingested": ("cr:Int64", "Samples that were read"),
    "kept": ("cr:Int64", "Samples in the manifest"),
    "rejected": ("cr:Int64", "Samples in the ledger"),
}


def show_description(catalog: Catalog, dataset: str, out: Path | None, root: Path = Path(".")) -> None:
    """Writes the description to `out`, with paths relative to it, or prints it."""
    base = Path(".") if out is None else Path(os.path.relpath(root, out.parent))
    document = describe_dataset(catalog, dataset, root, base)
    if out is None:
        print(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False))
    else:
        write_json(document, out)
        print(out)


def describe_dataset(catalog: Catalog, dataset: str, root: Path = Path("."), base: Path = Path(".")) -> dict[str, Any]:
    """The description of a curated data set; equal inputs give equal documents.

    There is no date and no address in it: a data set gets these when it is published.

    Args:
        base: the project's folder as seen from the description; all paths in it begin so.

    Raises:
        DataError: the data set was not curated, or a shard is missing; the message says what to run.
    """
    entry = catalog.dataset(dataset)
    made_by = f"fusion curate {dataset}"
    folder = Path("data/manifests") / dataset
    summary = read_json(root / folder / "summary.json", made_by)
    manifest = root / folder / "manifest.parquet"
    schema = parquet_file(manifest, made_by).schema_arrow
    shards = read_parquet(manifest, made_by, ["shard"])["shard"].unique().sort().to_list()
    files = [_file(root, base, folder / "manifest.parquet", _MANIFEST, "application/x-parquet")]
    for shard in shards:
        if not (root / shard).is_file():
            source = Path(shard).parent.name
            raise DataError(f"{shard} is missing: run `dvc checkout` or `fusion shard {dataset} {source}`")
        files.append(_file(root, base, Path(shard), shard, "application/x-tar"))
    inside = {
        "@type": "cr:FileSet",
        "@id": _RECORDS,
        "description": "One JSON file a sample: the conversation, and where it comes from.",
        "containedIn": [{"@id": shard} for shard in shards],
        "encodingFormat": "application/json",
        "includes": "*.json",
    }
    declared = {source.licence.declared for source in entry.sources.values()}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": dataset,
        "description": _description(entry, summary),
        "license": sorted(name for name in declared if name) + ["unknown"] * (None in declared),
        "isBasedOn": [_based_on(name, source) for name, source in entry.sources.items()],
        "distribution": [*files, *([inside] if shards else [])],
        "recordSet": [_samples(schema, summary), *([_conversations()] if shards else []), _sources(entry, summary)],
    }


def _description(entry: Dataset, summary: dict[str, Any]) -> str:
    counts = f"{summary['kept']} samples kept of {summary['ingested']}, {summary['draws']} drawn in an epoch"
    unverified = sum(source.licence.verified is None for source in entry.sources.values())
    return f"{entry.title}. {counts}. {len(entry.sources)} source(s); the licences of {unverified} are not verified."


def _file(root: Path, base: Path, path: Path, name: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": path.name,
        "contentUrl": (base / path).as_posix(),
        "contentSize": f"{(root / path).stat().st_size} B",
        "encodingFormat": kind,
        "sha256": file_sha256(root / path),
    }


def _samples(schema: pa.Schema, summary: dict[str, Any]) -> dict[str, Any]:
    tokens = {
        name: f"Tokens of the {'conversation' if name.startswith('text') else 'question for the tower'}"
        for name in schema.names
        if "_tokens_" in name
    }
    fields = [
        _field("samples", name, _data_type(schema.field(name).type), text)
        | {"source": {"fileObject": {"@id": _MANIFEST}, "extract": {"column": name}}}
        for name, text in {**_FIELDS, **tokens}.items()
        if name in schema.names
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "description": f"The {summary['kept']} samples that curation kept, and where each lies.",
        "key": {"@id": "samples/sample_id"},
        "field": fields,
    }


def _conversations() -> dict[str, Any]:
    fields = [
        _field("conversations", name, "sc:Text", text)
        | {"source": {"fileSet": {"@id": _RECORDS}, "extract": {"fileProperty": kind}}}
        for name, (kind, text) in _RECORD_FIELDS.items()
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "conversations",
        "description": "All records in the shards. Those whose id is not in `samples` were rejected: leave them out.",
        "field": fields,
    }


def _sources(entry: Dataset, summary: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for name, source in entry.sources.items():
        origin = {"kind": source.origin.kind, **source.origin.model_dump(mode="json")}
        counts = {key: summary["sources"][name][key] for key in ("ingested", "kept", "rejected")}
        row = {
            "source": name,
            "category": source.category,
            "origin": json.dumps(origin, sort_keys=True, ensure_ascii=False),
            "sampling": source.sampling,
            "licence_declared": source.licence.declared,
            "licence_verified": source.licence.verified,
            **counts,
        }
        rows.append({f"sources/{key}": value for key, value in row.items()})
    return {
        "@type": "cr:RecordSet",
        "@id": "sources",
        "description": "Origin, licence and counts of each source.",
        "key": {"@id": "sources/source"},
        "field": [_field("sources", name, kind, text) for name, (kind, text) in _SOURCES.items()],
        "data": rows,
    }


def _field(record_set: str, name: str, kind: str, text: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{record_set}/{name}", "description": text, "dataType": kind}


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return f"cr:Int{kind.bit_width}"
    if pa.types.is_floating(kind):
        return f"cr:Float{kind.bit_width}"
    return "sc:Text"


def _based_on(name: str, source: Source) -> dict[str, Any]:
    origin = source.origin.model_dump(mode="json")
    told = {"@type": "sc:CreativeWork", "name": name}
    if origin.get("repo"):
        told["url"] = f"https://huggingface.co/datasets/{origin['repo']}"
        if origin.get("revision"):
            told["version"] = origin["revision"]
    if source.licence.declared:
        told["license"] = source.licence.declared
    return told
