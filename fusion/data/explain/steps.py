"""The steps of one sample through the stages and blocks, each rule's measured value beside its threshold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import polars as pl

from fusion.data.curate.near_pictures import MAX_COLOUR_DIFFERENCE
from fusion.data.explain.near import (
    Near,
    Row,
    benchmark_runs,
    gap,
    nearest_benchmark_picture,
    nearest_picture,
    nearest_text,
    shared_counts,
    sources_with,
)
from fusion.data.explain.outputs import Outputs, messages_of
from fusion.data.explain.rules import Rule, image_measures, rules_of, text_measures

if TYPE_CHECKING:
    from fusion.settings import CurationProfile, Settings

SAMPLE_ID = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w-]*/\d{8}")


def other_sample(evidence: str, sample_id: str) -> str | None:
    """The sample that the evidence against `sample_id` names."""
    return next((match for match in SAMPLE_ID.findall(evidence) if match != sample_id), None)


class Steps:
    """Tells each step of one sample; `raw` and `row` are None where the sample did not come so far."""

    def __init__(
        self,
        settings: Settings,
        outputs: Outputs,
        profile: CurationProfile,
        raw: Row | None,
        row: Row | None,
        verdict: Row | None,
    ) -> None:
        self._settings = settings
        self._outputs = outputs
        self._profile = profile
        self._raw = raw
        self._row = row
        self._verdict = verdict
        self._single = self._measure() if raw is not None and row is not None else {}

    def step(self, block: str) -> dict[str, Any]:
        """Outcome of one block: "passed", "dropped" or "not reached", and its checks."""
        ended = self._verdict["block"] if self._verdict else None
        order = self._outputs.blocks
        step: dict[str, Any] = {"block": block, "outcome": "passed", "checks": []}
        if self._verdict is not None and ended == block:
            step |= {key: self._verdict[key] for key in ("reason", "evidence")} | {"outcome": "dropped"}
            step["other"] = self._other(self._verdict["evidence"])
        elif ended in order and order.index(block) > order.index(ended):
            return {**step, "outcome": "not reached"}
        if self._row is not None and self._raw is not None:
            step["checks"] = [check for rule in rules_of(block) if (check := self._check(rule)) is not None]
        if block == "mixture":
            step["weight"] = self._outputs.entry.sources[self._row["source"]].weight if self._row else None
        return step

    def _check(self, rule: Rule) -> dict[str, Any] | None:
        dropped = self._verdict is not None and self._verdict["reason"] == rule.reason
        if rule.drops == "same":
            return None
        threshold = rule.threshold(self._profile)
        check = {
            "reason": rule.reason,
            "setting": rule.setting,
            "threshold": getattr(self._profile, rule.setting) if rule.setting else threshold,
            "drops": rule.drops,
            "unit": rule.unit,
            "measured": None,
        }
        if rule.reason == "foreign-script":
            check["threshold"] = threshold
        if threshold is None:
            return {**check, "outcome": "off"}
        measured, more = self._value(rule, dropped)
        breaks = rule.breaks(measured, threshold)
        if dropped:
            outcome = "dropped" if breaks or measured is None else "would pass"
        else:
            outcome = "not measured" if measured is None else "would be dropped" if breaks else "passed"
        return {**check, "measured": measured, **more, "outcome": outcome}

    def _value(self, rule: Rule, dropped: bool) -> tuple[Any, dict[str, Any]]:
        """The measured number, and what stands beside it."""
        assert self._row is not None and self._raw is not None
        more: dict[str, Any] = {}
        if dropped and self._verdict is not None and rule.told:
            other = self._other(self._verdict["evidence"])
            if other and rule.reason == "similar-picture" and (theirs := self._of(other)) is not None:
                more = {"colours": round(gap(self._row, theirs)[1], 2), "max_colours": MAX_COLOUR_DIFFERENCE}
            return rule.number(self._verdict["evidence"]), {"other": other, **more}
        if rule.reason in self._single:
            return self._single[rule.reason], more
        near = self._nearest(rule)
        if near is None:
            return None, more
        if near.colours is not None:
            more = {"colours": near.colours, "max_colours": MAX_COLOUR_DIFFERENCE}
        return near.measured, {"other": near.other or None, **more}

    def _nearest(self, rule: Rule) -> Near | None:
        assert self._row is not None and self._raw is not None
        texts = [message["value"] for message in self._raw["conversations"]]
        said = [message["value"] for message in self._raw["conversations"] if message["from"] == "gpt"]
        match rule.reason:
            case "shared-text":
                mine = shared_counts(self._outputs, self._row["source"]).filter(
                    pl.col("sample_id") == self._row["sample_id"]
                )
                return Near(mine["shared-text"][0], "") if len(mine) else None
            case "similar-picture":
                return nearest_picture(self._outputs, self._row, self._of_profile("image_distance"))
            case "similar-text":
                return nearest_text(self._outputs, self._row, " ".join(said), self._of_profile("text_similarity"))
            case "near-benchmark-picture":
                return nearest_benchmark_picture(self._outputs, self._row)
            case "benchmark-text":
                size = self._profile.contamination_words
                return benchmark_runs(self._outputs, " ".join(texts), size) if size else None
        return None

    def _measure(self) -> dict[str, Any]:
        """What the rules about a single sample measure, by reason; null where a rule does not apply."""
        assert self._row is not None and self._raw is not None
        schema = {"width": pl.Int32, "height": pl.Int32, "contrast": pl.Float32}
        picture = pl.DataFrame({key: [self._row[key]] for key in schema}, schema=schema)
        messages = messages_of(pl.DataFrame([{"sample": 0, "conversations": self._raw["conversations"]}]).lazy())
        values = picture.select(image_measures()).to_dicts()[0]
        if len(messages):
            texts = text_measures(messages, "sample", list(self._profile.scripts or []) or None)
            values |= texts.drop("sample").to_dicts()[0]
        return values

    def _of_profile(self, setting: str) -> list[str]:
        return sources_with(self._settings, self._outputs, setting)

    def _other(self, evidence: str) -> str | None:
        return other_sample(evidence, self._row["sample_id"] if self._row else "")

    def _of(self, sample_id: str) -> Row | None:
        return self._outputs.one(self._outputs.index(sample_id.split("/")[1]), sample_id=sample_id)
