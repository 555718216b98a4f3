"""Values of params.yaml that are right by themselves and do not fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.documents import did_you_mean

if TYPE_CHECKING:
    from fusion.settings import Settings, Variant


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
        lines += [f"variants.{name}.{line}" for line in _variant_contradictions(variant)]
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


def _variant_contradictions(variant: Variant) -> list[str]:
    lines = []
    for stage in type(variant.stages).model_fields:
        batch = getattr(variant.stages, stage).global_batch
        if batch < variant.hardware.ranks:
            lines.append(
                f"stages.{stage}.global_batch: {batch} samples are too few for hardware.ranks {variant.hardware.ranks}"
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
