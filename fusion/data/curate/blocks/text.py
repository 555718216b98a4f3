"""Answers too short, too long, repetitive, foreign, useless, with personal data or control characters."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import AT, Block, Samples, first_reason, no_rejects
from fusion.data.curate.text_rules import CARD, CONTROL, EMAIL, PHONE, SCRIPTS, plain, useless, visible

_LETTERS_IN_SCRIPT = 0.9


class Text(Block):
    """Thresholds: `min_answer_chars`, `max_answer_chars`, `max_repetition`, `scripts`, `pii`, `useless_texts`,
    `max_same_text`.
    """

    name: ClassVar[str] = "text"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        limits = samples.limits()
        found = []
        for batch in samples.messages(list(samples.profiles)):
            messages = batch.join(limits, on="source", how="left", maintain_order="left")
            found.append(first_reason(messages, self._rules(samples)))
        found.append(self._same_texts(samples))
        return pl.concat(found).unique(AT, keep="first", maintain_order=True).sort(AT) if found else no_rejects()

    def _rules(self, samples: Samples) -> list[tuple[str, pl.Expr, pl.Expr]]:
        value, answer = pl.col("value"), pl.col("role") == "gpt"
        stripped = visible(value)
        chars = stripped.str.len_chars()
        length = pl.format("{} characters", chars)
        shown = value.str.slice(0, 120)
        words = value.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+")
        often = words.list.eval(pl.element().value_counts(sort=True).struct.field("count").first()).list.first()
        share = pl.when(words.list.len() >= 6).then(often / words.list.len())
        rules = [
            ("control-characters", value.str.contains(CONTROL), shown.str.escape_regex()),
            ("answer-too-short", answer & (chars < pl.col("min_answer_chars")), length),
            ("answer-too-long", answer & (chars > pl.col("max_answer_chars")), length),
            ("repetition", answer & (share > pl.col("max_repetition")), shown),
            (
                "pii-email",
                pl.col("pii") & value.str.contains(EMAIL),
                pl.format("at character {}", value.str.find(EMAIL)),
            ),
            ("pii-card", pl.col("pii") & value.str.contains(CARD), pl.format("at character {}", value.str.find(CARD))),
            (
                "pii-phone",
                pl.col("pii") & value.str.contains(PHONE),
                pl.format("at character {}", value.str.find(PHONE)),
            ),
            ("useless-text", answer & pl.col("useless_texts") & useless(stripped), shown),
        ]
        for scripts in {tuple(profile.scripts) for profile in samples.profiles.values() if profile.scripts}:
            sources = [
                source for source, profile in samples.profiles.items() if tuple(profile.scripts or ()) == scripts
            ]
            letters = value.str.count_matches(r"\p{L}")
            own = value.str.count_matches("[" + "".join(SCRIPTS[script] for script in scripts) + "]")
            foreign = pl.col("source").is_in(sources) & answer & (own < letters * _LETTERS_IN_SCRIPT)
            rules.append(
                (
                    "foreign-script",
                    foreign,
                    pl.format("{} of {} letters in {}", own, letters, pl.lit(", ".join(scripts))),
                )
            )
        return rules

    def _same_texts(self, samples: Samples) -> pl.DataFrame:
        """Answers that too many pictures of a source share: the name of a collection says nothing of a picture."""
        parts = [
            batch.filter(pl.col("role") == "gpt").select(AT, "source", "value", text=plain(pl.col("value")))
            for batch in samples.messages(samples.of("max_same_text"))
        ]
        if not parts:
            return no_rejects()
        pictures = samples.frame.select(AT, "image_sha256")
        shared = (
            pl.concat(parts)
            .join(pictures, on=AT, maintain_order="left")
            .join(samples.limits(), on="source", maintain_order="left")
        )
        shared = shared.with_columns(sharing=pl.col("image_sha256").n_unique().over("source", "text"))
        told = pl.format("{} pictures have it: {}", "sharing", pl.col("value").str.slice(0, 120))
        return first_reason(shared, [("shared-text", pl.col("sharing") > pl.col("max_same_text"), told)])
