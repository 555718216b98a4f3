"""The folder that is published: the last stage's checkpoint, its model card, its lineage, its licence.

The folder is deterministic: no times, hosts or run ids. It gets its name only after the model was loaded back from it.
"""

import shutil
from pathlib import Path

from fusion.data.catalog import Catalog
from fusion.data.store.folders import output_folder
from fusion.evaluate.gate import judge_variant
from fusion.evaluate.verdict import Verdict, table
from fusion.files import write_json
from fusion.hashing import file_sha256
from fusion.lineage.ancestry import ancestry_of
from fusion.publish.card import judged, model_card
from fusion.publish.errors import PublishError
from fusion.publish.facts import Facts, collect_facts
from fusion.publish.licence import WeightsLicence, weights_licence
from fusion.settings import Settings

ALLOWED = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Endings of files that are published. Pickles and code can run commands on the machine of whoever loads them."""


def build_package(settings: Settings, catalog: Catalog, variant: str, root: Path = Path(".")) -> None:
    """Writes packages/<variant>/.

    Raises `PublishError` when a part is missing, when the gate does not let it pass, when its weights are not those
    that were evaluated, or when the licence forbids it; `LineageError` when a stage's record is missing.
    """
    chosen = settings.variant(variant)
    licence = weights_licence(chosen)
    facts = collect_facts(settings, catalog, variant, root)
    ancestry = ancestry_of(f"package@{variant}", root)
    checkpoint = root / "checkpoints" / variant / "stage2"
    if not (checkpoint / "config.json").is_file():
        raise PublishError(f"{checkpoint} holds no checkpoint: run `dvc repro train_stage2@{variant}`")
    verdicts = _pass_gate(settings, variant, root)
    with output_folder(root / "packages" / variant) as folder:
        copy_checkpoint(checkpoint, folder)
        _check_weights(folder, facts)
        add_licence(folder, licence, root)
        write_json(ancestry.document, folder / "lineage.json")
        card = model_card(facts, catalog, licence, ancestry.digest, judged(settings, variant, verdicts))
        (folder / "README.md").write_text(card, encoding="utf-8")
        _load_back(folder)


def _pass_gate(settings: Settings, variant: str, root: Path) -> list[Verdict]:
    """The verdicts; raises `PublishError` with the gate's table unless every required column passes."""
    verdicts = judge_variant(settings, variant, root)
    blocked = [verdict for verdict in verdicts if verdict.blocks]
    if blocked:
        names = ", ".join(f"{verdict.column} ({verdict.status})" for verdict in blocked)
        raise PublishError(f"{variant} does not pass the gate: {names}\n{table(blocked)}")
    return verdicts


def copy_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Copies a checkpoint's files; raises `PublishError` for one that could run commands where it is loaded."""
    for path in sorted(checkpoint.rglob("*")):
        target = folder / path.relative_to(checkpoint)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.suffix in ALLOWED:
            shutil.copyfile(path, target)
        else:
            raise PublishError(f"{path} cannot be published: only {', '.join(ALLOWED)} files are")


def _check_weights(folder: Path, facts: Facts) -> None:
    """The weights in the folder must be the ones whose scores stand on the card."""
    present = {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    if present != facts.weights:
        raise PublishError(
            f"the weights of {facts.variant} are not those that were evaluated ({', '.join(facts.weights) or 'none'}): "
            f"run `dvc repro evaluate@{facts.variant}`"
        )


def add_licence(folder: Path, licence: WeightsLicence, root: Path) -> None:
    """Writes LICENSE and, where the licence asks for one, NOTICE."""
    if licence.attribution is not None:
        (folder / "NOTICE").write_text(licence.attribution + "\n", encoding="utf-8")
    if licence.text is not None:
        (folder / "LICENSE").write_text(licence.text, encoding="utf-8")
        return
    if not (root / "LICENSE").is_file():
        raise PublishError(f"{root / 'LICENSE'} is missing: a package carries the licence of its weights")
    shutil.copyfile(root / "LICENSE", folder / "LICENSE")


def _load_back(folder: Path) -> None:
    """Loads model and processor from the folder; every parameter must be in the files and none be left over."""
    from fusion.model.checkpoints import load_checkpoint
    from fusion.quiet import quiet_libraries

    quiet_libraries()
    try:
        load_checkpoint(folder)
    except (ValueError, OSError) as error:
        raise PublishError(f"the package cannot be loaded back: {error}") from error
