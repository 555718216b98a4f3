"""The rules behind the reason codes: what each measures of a sample, and which threshold it holds that to.

The blocks of curation decide; this table is for people who look at a decision. A test runs both on the same samples. A
block that has no entry here is still told, with the reason and the evidence that the ledger has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from fusion.data.curate.text_rules import CARD, CONTROL, EMAIL, PHONE, SCRIPTS, plain, useless, visible

if TYPE_CHECKING:
    from fusion.settings import CurationProfile

LETTERS_IN_SCRIPT = 0.9
"""As in the text block: the share of letters that must belong to `scripts`."""


@dataclass(frozen=True)
class Rule:
    """One reason code. `setting`: its key in a profile of params.yaml, None where no setting is asked.

    `drops`: on which side of the threshold a sample goes; "any" = when there is one at all, "same" = by equality.
    `told`: finds the measured number in the evidence, where only the whole data set gives it.
    """

    block: str
    reason: str
    setting: str | None
    drops: Literal["below", "above", "up to", "from", "any", "same"]
    unit: str
    told: str | None = None

    def threshold(self, profile: CurationProfile) -> Any:
        """The value that a measured one is compared with; None when the profile switches the rule off."""
        if self.reason == "foreign-script":
            return LETTERS_IN_SCRIPT if profile.scripts else None
        if self.drops == "any":
            on = True if self.setting is None else getattr(profile, self.setting)
            return 0 if on else None
        return None if self.setting is None else getattr(profile, self.setting)

    @property
    def graded(self) -> bool:
        """Whether there is a threshold that can be moved."""
        return self.drops not in ("any", "same") or self.reason == "benchmark-text"

    def breaks(self, measured: Any, threshold: Any) -> bool:
        """Whether a sample that measures so is dropped."""
        if measured is None or threshold is None:
            return False
        return {
            "below": measured < threshold,
            "above": measured > threshold,
            "up to": measured <= threshold,
            "from": measured >= threshold,
            "any": measured > 0,
            "same": bool(measured),
        }[self.drops]

    def number(self, evidence: str) -> float | None:
        """The measured number that `evidence` names, if it does."""
        found = re.match(self.told, evidence) if self.told else None
        return float(found.group(1)) if found else None


_BITS = r"(\d+) of 256 bits"
RULES = (
    Rule("image", "too-small", "min_side", "below", "pixels, the shorter side"),
    Rule("image", "too-long", "max_aspect", "above", "times as long as wide"),
    Rule("image", "blank", "min_contrast", "below", "contrast"),
    Rule("text", "control-characters", None, "any", "control characters"),
    Rule("text", "answer-too-short", "min_answer_chars", "below", "characters, the shortest answer"),
    Rule("text", "answer-too-long", "max_answer_chars", "above", "characters, the longest answer"),
    Rule("text", "repetition", "max_repetition", "above", "of the words are the most frequent word"),
    Rule("text", "pii-email", "pii", "any", "mail addresses"),
    Rule("text", "pii-card", "pii", "any", "card numbers"),
    Rule("text", "pii-phone", "pii", "any", "phone numbers"),
    Rule("text", "useless-text", "useless_texts", "any", "answers that say nothing"),
    Rule("text", "foreign-script", "scripts", "below", "of the letters in the named scripts"),
    Rule("text", "shared-text", "max_same_text", "above", "pictures with this answer", r"(\d+) pictures"),
    Rule("exact-duplicates", "same-text", None, "same", ""),
    Rule("exact-duplicates", "same-sample", None, "same", ""),
    Rule("near-duplicates", "similar-picture", "image_distance", "up to", "bits of 256 from an earlier picture", _BITS),
    Rule("near-duplicates", "similar-text", "text_similarity", "from", "of the word 3-grams shared", r"([0-9.]+) of"),
    Rule("contamination", "benchmark-picture", None, "same", ""),
    Rule("contamination", "near-benchmark-picture", "image_distance", "up to", "bits of 256 from a benchmark", _BITS),
    Rule("contamination", "benchmark-text", "contamination_words", "any", "runs of so many words", r"(\d+) run"),
)


def rules_of(block: str) -> list[Rule]:
    """The rules of a block, in its order; none for a block that has no entry."""
    return [rule for rule in RULES if rule.block == block]


def rule_of(block: str, reason: str) -> Rule | None:
    """The rule behind a reason code, if it has an entry."""
    return next((rule for rule in rules_of(block) if rule.reason == reason), None)


def image_measures() -> list[pl.Expr]:
    """Columns, named by reason, of a frame that has the index's columns; null without a picture."""
    short, long = pl.min_horizontal("width", "height"), pl.max_horizontal("width", "height")
    return [
        short.alias("too-small"),
        (long / short).alias("too-long"),
        pl.col("contrast").cast(pl.Float64).alias("blank"),
    ]


def text_measures(messages: pl.DataFrame, by: str, scripts: list[str] | None) -> pl.DataFrame:
    """What the rules about single texts measure of each sample.

    Args:
        messages: one row a message: `by` (the sample), `role`, `value`.
        by: the column that names the sample.
        scripts: of the sample's profile.

    Returns:
        `by` and one column a reason; of several messages that which comes nearest to being dropped.
    """
    value, answer = pl.col("value"), pl.col("role") == "gpt"
    stripped = visible(value)
    chars = pl.when(answer).then(stripped.str.len_chars())
    words = value.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+")
    often = words.list.eval(pl.element().value_counts(sort=True).struct.field("count").first()).list.first()
    letters = value.str.count_matches(r"\p{L}")
    own = value.str.count_matches("[" + "".join(SCRIPTS[name] for name in scripts or SCRIPTS) + "]")
    foreign = pl.when(answer & (letters > 0) & pl.lit(bool(scripts))).then(own / letters)
    columns = {
        "control-characters": value.str.count_matches(CONTROL).sum(),
        "answer-too-short": chars.min(),
        "answer-too-long": chars.max(),
        "repetition": pl.when(answer & (words.list.len() >= 6)).then(often / words.list.len()).max(),
        "pii-email": value.str.count_matches(EMAIL).sum(),
        "pii-card": value.str.count_matches(CARD).sum(),
        "pii-phone": value.str.count_matches(PHONE).sum(),
        "useless-text": (answer & useless(stripped)).sum(),
        "foreign-script": foreign.min(),
    }
    return messages.group_by(by, maintain_order=True).agg(**columns)


def sharing(messages: pl.DataFrame, by: str) -> pl.DataFrame:
    """How many pictures have an answer of the sample, its numbers aside: `by`, `shared-text`.

    `messages`: of one source, with `image_sha256` beside `by`, `role` and `value`.
    """
    answers = messages.filter(pl.col("role") == "gpt").with_columns(text=plain(pl.col("value")))
    counted = answers.with_columns(pl.col("image_sha256").n_unique().over("text").alias("shared-text"))
    return counted.group_by(by, maintain_order=True).agg(pl.col("shared-text").max())
