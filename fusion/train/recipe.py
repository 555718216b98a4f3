"""A recipe: all that one stage of one variant is trained with. Variant x stage -> values, no code per variant."""

import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fusion.hashing import file_sha256, json_sha256
from fusion.settings import STAGES, Guards, Hardware, Loading, Model, Settings, Stage, StageSettings, Tracking

_CODE = ("fusion/model", "fusion/train", "fusion/data/stream")
NO_RESULT = {"save_every_steps", "keep_checkpoints", "hardware"}
"""Settings of a stage that no output depends on; `hardware` stands in the recipe."""
_MAY_DIFFER = NO_RESULT | {"zero_stage", "activation_checkpointing", "on_bad_sample"}
"""Settings that may change in the middle: what was computed before is what it would have been."""
_PACKAGES = ("torch", "transformers", "deepspeed", "numpy", "pillow")


@dataclass(frozen=True)
class Recipe:
    """The inputs, hyperparameters and outputs of a training stage; paths are relative to the project's folder."""

    variant: str
    stage: Stage
    before: str
    """The stage that this one continues, or `base`."""
    seed: int
    dataset: str
    tokenizer: str
    settings: StageSettings
    model: Model
    hardware: Hardware
    guards: Guards
    loading: Loading
    """How samples are read. It decides no result and is no part of the identity."""
    tracking: Tracking
    """How it is followed; the same is true of it."""
    root: Path

    @property
    def parent(self) -> Path:
        """The checkpoint that this stage continues: the base models for stage 1."""
        return self.root / "checkpoints" / self.variant / self.before

    @property
    def output(self) -> Path:
        """Where the trained checkpoint goes."""
        return self.root / "checkpoints" / self.variant / self.stage

    @property
    def results(self) -> Path:
        """Where the curves and facts go that are equal for equal runs."""
        return self.root / "results" / self.variant / self.stage

    @property
    def log(self) -> Path:
        """The JSON-lines log with times and rates, which differ from run to run."""
        return self.root / "runs" / self.variant / f"{self.stage}.jsonl"

    @property
    def manifest(self) -> Path:
        """The kept samples of the stage's data set."""
        return self.root / "data" / "manifests" / self.dataset / "manifest.parquet"

    @property
    def verdict(self) -> Path:
        """The validation that gates this stage."""
        return self.root / "data" / "validation" / self.dataset / "validation.json"

    def identity(self) -> str:
        """sha256 of `decisive`: a state is kept under this key."""
        return json_sha256(self.decisive())

    def decisive(self) -> dict[str, Any]:
        """Everything that a state must have in common with the run that continues it, as plain values.

        Hyperparameters, architecture, seed, data, parent weights, the code, and the versions of the packages that
        compute. Left out is how the state lies on its ranks (see `layout`), how often it is saved, and what changes
        nothing of what was computed before.
        """
        code = {
            str(path.relative_to(self.root)): file_sha256(path) for part in _CODE for path in _files(self.root / part)
        }
        return {
            "stage": self.stage,
            "seed": self.seed,
            "tokenizer": self.tokenizer,
            "settings": self.settings.model_dump(exclude=_MAY_DIFFER),
            "model": self.model.model_dump(),
            "manifest": file_sha256(self.manifest),
            "parent": {path.name: file_sha256(path) for path in sorted(self.parent.iterdir()) if path.is_file()},
            "code": code,
            "packages": {name: version(name) for name in (*_PACKAGES, *(["peft"] if self.settings.lora else []))},
        }

    def learning_rate_factor(self, step: int, steps: int) -> float:
        """Factor on the peak rates at 0-based `step` of `steps`: linear warm-up, then the schedule down to 0."""
        warmup = math.ceil(self.settings.warmup_ratio * steps) if self.settings.warmup_ratio else 0
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        if self.settings.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        return 1.0 - done if self.settings.schedule == "linear" else 1.0

    def num_latents(self, step: int) -> int:
        """The number of latent tokens of an optimiser step, drawn from (seed, step) alike on all ranks.

        Source: design "Context-aware recursive alignment decoding".
        """
        choices = self.model.query_len
        generator = np.random.default_rng([self.seed, STAGES.index(self.stage), step])
        return int(choices[generator.integers(len(choices))])

    def random_seed(self, step: int, rank: int) -> int:
        """Seed of a rank's random numbers in an optimiser step: nothing about them has to be saved to continue."""
        sequence = np.random.SeedSequence([self.seed, STAGES.index(self.stage), step, rank])
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def as_dict(self) -> dict[str, object]:
        """Plain values for logs and summaries."""
        values = asdict(self)
        values["settings"] = self.settings.model_dump()
        values["model"] = self.model.model_dump()
        values["hardware"] = self.hardware.model_dump()
        values["guards"] = self.guards.model_dump()
        values["loading"] = self.loading.model_dump()
        values["tracking"] = self.tracking.model_dump()
        values["root"] = "."
        return values


def make_recipe(settings: Settings, variant: str, stage: Stage, root: Path = Path()) -> Recipe:
    """The recipe of `stage` of `variant`; raises `SettingsError` for an unknown variant or a stage that it lacks."""
    chosen = settings.variant(variant)
    own = settings.stage(variant, stage)
    return Recipe(
        variant=variant,
        stage=stage,
        before=chosen.chain[chosen.stage_names.index(stage)],
        seed=settings.seed(variant),
        dataset=getattr(chosen.data, stage),
        tokenizer=chosen.data.tokenizer,
        settings=own,
        model=chosen.model,
        hardware=settings.hardware(variant, stage),
        guards=settings.guards,
        loading=settings.data.loading,
        tracking=settings.tracking,
        root=root,
    )


def _files(part: Path) -> list[Path]:
    found = part.rglob("*") if part.is_dir() else [part]
    return sorted(path for path in found if path.is_file() and path.suffix != ".pyc")
