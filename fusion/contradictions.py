"""Values of params.yaml that are right by themselves and do not fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fusion.documents import did_you_mean

if TYPE_CHECKING:
    from fusion.settings import Settings, StageSettings, Variant


def contradictions(settings: Settings) -> list[str]:
    """What does not fit, one line each."""
    lines = []
    for name in settings.run.variants:
        if name not in settings.variants:
            lines.append(f"run.variants: `{name}` is not one of the variants{did_you_mean(name, settings.variants)}")
    lines += [
        f"run.variants: `{name}` stands there twice"
        for name in dict.fromkeys(settings.run.variants)
        if settings.run.variants.count(name) > 1
    ]
    for name, profile in settings.curation.profiles.items():
        if profile.min_answer_chars > profile.max_answer_chars:
            lines.append(f"curation.profiles.{name}.min_answer_chars: is more than max_answer_chars")
    for name, variant in settings.variants.items():
        lines += [f"variants.{name}.{line}" for line in _variant_contradictions(settings, variant)]
        for stage in variant.stage_names:
            lines += [
                f"variants.{name}.stages.{stage}: {line}"
                for line in _stage_contradictions(settings.stage(name, stage), variant)
            ]
        lines += [f"variants.{name}.evaluation.gate.{line}" for line in _gate_contradictions(settings, variant)]
    return lines


def _gate_contradictions(settings: Settings, variant: Variant) -> list[str]:
    """A gate that asks for what is not run, or for nothing, would never pass or always."""
    evaluation = variant.evaluation
    gate = evaluation.gate
    lines = [f"columns: {name} is not in evaluation.columns" for name in gate.columns if name not in evaluation.columns]
    lines += [
        f"columns: evaluation.gate.margins has none for {name}"
        for name in gate.columns
        if name not in settings.evaluation.gate.margins
    ]
    if gate.columns and gate.reference is None:
        lines.append("reference: missing: columns are held to the numbers of one of the zoo's models")
    if not gate.columns and not gate.over_blind:
        lines.append("over_blind: asks for nothing: name a column or a benchmark")
    return lines


def _stage_contradictions(stage: StageSettings, variant: Variant) -> Iterator[str]:
    """Of a stage with the values of `training` filled in."""
    trained = stage.trained_parts or []
    if trained == ["interaction"] and not variant.model.interaction.layers:
        yield "trained_parts: interaction alone, and model.interaction has no layers: nothing would be trained"
    for part in stage.lora.targets if stage.lora else ():
        if part not in trained:
            yield f"lora.targets.{part}: adapters of a part that is not among trained_parts"


def _variant_contradictions(settings: Settings, variant: Variant) -> list[str]:
    lines = []
    if (variant.stages.stage1_5 is None) != (variant.data.stage1_5 is None):
        lines.append("stages.stage1_5, data.stage1_5: both have a value, or both are null (no such stage)")
    if variant.adopted == "stage1_5" and variant.stages.stage1_5 is None:
        lines.append("adopted: there is no stage1_5: stages.stage1_5 is null")
    for name in variant.stage_names:
        stage: StageSettings = getattr(variant.stages, name)
        hardware = variant.hardware_of(name)
        if stage.global_batch % hardware.ranks:
            lines.append(
                f"stages.{name}.global_batch: {stage.global_batch} samples do not divide among hardware.ranks "
                f"{hardware.ranks}"
            )
        zero = settings.training.zero_stage if stage.zero_stage is None else stage.zero_stage
        if hardware.offload_optimizer and zero == 0:
            lines.append(f"hardware.offload_optimizer: needs a zero_stage of 1, 2 or 3, and {name} has 0")
        if hardware.compile and zero == 3:
            lines.append(
                f"hardware.compile: needs a zero_stage of 0, 1 or 2, and {name} has 3: weights that are gathered one "
                "by one inside a layer leave nothing to compile"
            )
    language, layers = variant.base.llm.config, variant.model.interaction
    if language is not None:
        if "model_type" not in language:
            lines.append("base.llm.config.model_type: missing")
        if variant.base.tokenizer is None:
            lines.append("base.tokenizer: missing: a language model made from a configuration brings none")
        depth, last = language.get("num_hidden_layers"), layers.start + layers.stride * (layers.layers - 1)
        if isinstance(depth, int) and layers.layers and last >= depth:
            lines.append(
                f"model.interaction: the last of its layers would follow decoder layer {last}, of 0 to {depth - 1}"
            )
    return lines
