"""What goes into each repository of a release: the finished model, its stages, the cards of its data sets.

Everything but the signature follows from what is published, so an equal release has equal bytes.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fusion.data.croissant import describe_dataset
from fusion.files import write_json
from fusion.hashing import file_sha256, json_sha256
from fusion.inquiry.checks import BOM, PROVENANCE, SIGNATURE
from fusion.inquiry.signing import add_statements
from fusion.lineage.ancestry import Ancestry
from fusion.lineage.files import files_below
from fusion.lineage.reference import LINEAGE_FILE
from fusion.publish.card import Judged, Published, judged, model_card
from fusion.publish.curves import all_stages, stage_panels
from fusion.publish.dataset_card import dataset_card
from fusion.publish.errors import PublishError
from fusion.publish.facts import STAGE_TITLES, Facts, collect_facts
from fusion.publish.package import add_licence, copy_checkpoint
from fusion.release.refusals import Checked
from fusion.settings import STAGES

CARD, CURVES, CROISSANT, LICENCES = "README.md", "curves.png", "croissant", "licences"
Kind = Literal["model", "dataset"]
Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Repository:
    """One repository of a release. `folder` holds it as it will be there; `about` is for people."""

    id: str
    kind: Kind
    folder: Path
    about: str

    @property
    def files(self) -> dict[str, str]:
        """Name -> sha256 of each file."""
        return {name: sha256_once(self.folder / name) for name in sorted(files_below(self.folder))}

    def place(self, folder: Path) -> Path:
        """Where it lies in a folder in the Hub's layout: OWNER/NAME, or datasets/OWNER/NAME."""
        return folder / ("datasets" if self.kind == "dataset" else "") / self.id


_HASHED: dict[tuple[int, int, int, int], str] = {}


def sha256_once(path: Path) -> str:
    """sha256 of a file, which this process reads once as long as it is the same file, wherever it was moved."""
    state = path.stat()
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if key not in _HASHED:
        _HASHED[key] = file_sha256(path)
    return _HASHED[key]


def write_contents(checked: Checked, folder: Path, say: Say) -> list[Repository]:
    """Writes all repositories below `folder`, in the order in which they are uploaded: the model comes last.

    Args:
        folder: an empty one, in which they lie in the Hub's layout.
        say: gets each step and what came of it.

    Raises:
        PublishError, LineageError, DataError: something that is needed is missing.
    """
    facts = collect_facts(checked.settings, checked.catalog, checked.variant, checked.root)
    croissants = {
        name: describe_dataset(checked.catalog, name, checked.root) for name in checked.names.datasets
    }  # fmt: skip
    made = []
    for dataset in facts.datasets:
        repo = checked.names.datasets[dataset.name]
        one = Repository(repo, "dataset", Path(), f"card of the data set {dataset.name}")
        one = replace(one, folder=one.place(folder))
        one.folder.mkdir(parents=True)
        write_json(croissants[dataset.name], one.folder / "croissant.json")
        text = dataset_card(dataset, checked.catalog, checked.names.model)
        (one.folder / CARD).write_text(text, encoding="utf-8")
        made.append(one)
    for stage in checked.names.stages:
        about = "the finished model" if stage == "stage2" else f"checkpoint of {STAGE_TITLES[stage].lower()}"
        one = Repository(checked.names.stages[stage], "model", Path(), about)
        one = replace(one, folder=one.place(folder))
        _write_model(checked, stage, facts, croissants, one.folder)
        made.append(one)
    names = [one.id for one in made if one.kind == "model"]
    say("card", f"{', '.join(names)}: scores with statuses, data, training, curves, lineage digest")
    say("Croissant", f"{len(croissants)} data sets: {', '.join(croissants)}")
    say("ML-BOM", f"{BOM}, CycloneDX 1.6, in each of {len(names)} models")
    say("provenance", f"{PROVENANCE}, in-toto statement with SLSA provenance, in each of them")
    return made


def _write_model(checked: Checked, stage: str, facts: Facts, croissants: dict[str, Any], folder: Path) -> None:
    """One checkpoint with all that goes along, but for the signature."""
    variant, root = checked.variant, checked.root
    folder.mkdir(parents=True)
    own = _facts_of(facts, stage, checked.names.stages[stage].partition("/")[2])
    if stage == "stage2":
        shutil.copytree(root / "packages" / variant, folder, dirs_exist_ok=True)
        ancestry = checked.behind
        gate = judged(checked.settings, variant, checked.verdicts)
    else:
        checkpoint = root / "checkpoints" / variant / stage
        copy_checkpoint(checkpoint, folder)
        add_licence(folder, checked.licence, root)
        ancestry, gate = checked.through[stage], Judged()
        write_json(ancestry.document, folder / LINEAGE_FILE)
        own = replace(own, weights={path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))})
    _curves(variant, own, root, folder)
    for dataset in own.datasets:
        write_json(croissants[dataset.name], folder / CROISSANT / f"{dataset.name}.json")
    for name, text in checked.texts.items():
        (folder / LICENCES).mkdir(exist_ok=True)
        (folder / LICENCES / name).write_text(text, encoding="utf-8")
    _card(checked, stage, own, gate, ancestry, folder)
    add_statements(folder)


def _facts_of(facts: Facts, stage: str, name: str) -> Facts:
    """The facts up to a stage. Its checkpoint was not scored as the finished model was."""
    if stage == "stage2":
        return facts
    upto = STAGES[: STAGES.index(stage) + 1]
    datasets = tuple(
        replace(dataset, stages=tuple(of for of in dataset.stages if of in upto))
        for dataset in facts.datasets
        if set(dataset.stages) & set(upto)
    )
    stages = tuple(one for one in facts.stages if one.name in upto)
    parameters = int(stages[-1].summary["parameters"])
    return replace(facts, name=name, parameters=parameters, datasets=datasets, stages=stages, benchmarks=())


def _curves(variant: str, own: Facts, root: Path, folder: Path) -> None:
    buffer = io.BytesIO()
    all_stages(own.name, stage_panels(variant, [one.name for one in own.stages], root)).save(
        buffer, "PNG", optimize=True
    )
    (folder / CURVES).write_bytes(buffer.getvalue())


def _card(checked: Checked, stage: str, own: Facts, gate: Judged, ancestry: Ancestry, folder: Path) -> None:
    names, review = checked.names, checked.review
    files = {
        LINEAGE_FILE: "the runs behind this checkpoint: command, parameters, sha256 of all that each read and wrote",
        PROVENANCE: "in-toto statement with SLSA provenance: the sha256 of the files here",
        BOM: "CycloneDX 1.6 ML-BOM: files, data sets with their sources, base models",
        f"{CROISSANT}/": "Croissant 1.0 of each data set",
        CURVES: "loss, learning rates, cross-entropy by source",
        **({f"{LICENCES}/": "texts that licences ask to pass on"} if checked.texts else {}),
        **({SIGNATURE: "OpenSSF model signature over all files"} if checked.key else {}),
    }
    published = Published(
        names.stages[stage],
        {STAGE_TITLES[one]: repo for one, repo in names.stages.items()},
        {one.name: names.datasets[one.name] for one in own.datasets},
        files,
        review.notice,
        review.duties,
        {conflict.id: str(conflict.reason) for conflict in review.conflicts},
    )
    text = model_card(own, checked.catalog, checked.licence, ancestry.digest, gate, published)
    (folder / CARD).write_text(text, encoding="utf-8")


def release_id(made: list[Repository]) -> str:
    """`release-` and twelve digits that follow from all files, signatures apart: they differ from run to run."""
    content = {
        f"{one.kind} {one.id}": {name: sha for name, sha in one.files.items() if name != SIGNATURE} for one in made
    }
    if not any(content.values()):
        raise PublishError("there is nothing to publish")
    return f"release-{json_sha256(content)[:12]}"
