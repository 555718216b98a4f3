"""Answers too short, too long, repetitive, foreign, useless, with personal data or control characters."""

from hashlib import blake2b
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from fusion.data.curate.base import REJECTS, Block, first_reason, no_rejects
from fusion.data.curate.digests import Numbers, halves
from fusion.data.curate.samples import AT, Part, Positions, Samples
from fusion.data.curate.text_rules import CARD, CONTROL, EMAIL, PHONE, SCRIPTS, has, plain, useless, visible
from fusion.data.curate.words import most_frequent, word_numbers
from fusion.data.store.filled import filled
from fusion.settings import CurationProfile

_LETTERS_IN_SCRIPT = 0.9
_FEWEST_WORDS = 6
Rule = tuple[str, pl.Expr, pl.Expr]


class Text(Block):
    """Thresholds: `min_answer_chars`, `max_answer_chars`, `max_repetition`, `scripts`, `pii`, `useless_texts`,
    `max_same_text`.
    """

    name: ClassVar[str] = "text"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        found, answers = [no_rejects()], []
        for rejects, plain_answers in samples.map("texts", _check, samples.parts()):
            found.append(rejects)
            answers.append(plain_answers)
        found.append(_shared(samples, answers))
        return pl.concat(found).unique(AT, keep="first", maintain_order=True).sort(AT)


PlainAnswers = tuple[Positions, Numbers, Numbers]
"""Of every answer, in order: `at`, a number of the plain text, a number of the picture."""


def _check(part: Part) -> tuple[pl.DataFrame, PlainAnswers]:
    messages = part.messages().with_columns(answer=pl.col("role") == "gpt")
    rejects = first_reason(messages.with_columns(repeats=_repeats(messages, part.profile)), _rules(part.profile))
    empty = np.empty(0, np.uint64)
    shared = _plain_answers(part, messages) if part.profile.max_same_text else (np.empty(0, np.int64), empty, empty)
    return rejects.unique(AT, keep="first", maintain_order=True), shared


def _rules(profile: CurationProfile) -> list[Rule]:
    value, answer = pl.col("value"), pl.col("answer")
    stripped = visible(value)
    chars = stripped.str.len_chars()
    length = filled("{} characters", chars)
    shown = value.str.slice(0, 120)
    rules: list[Rule] = [
        ("control-characters", value.str.contains(CONTROL), shown.str.escape_regex()),
        ("answer-too-short", answer & (chars < profile.min_answer_chars), length),
        ("answer-too-long", answer & (chars > profile.max_answer_chars), length),
        ("repetition", pl.col("repeats"), shown),
    ]
    if profile.pii:
        rules += [
            (f"pii-{kind}", has(pattern, value), filled("at character {}", value.str.find(pattern)))
            for kind, pattern in (("email", EMAIL), ("card", CARD), ("phone", PHONE))
        ]
    if profile.useless_texts:
        rules.append(("useless-text", answer & useless(stripped), shown))
    if profile.scripts:
        letters = value.str.count_matches(r"\p{L}")
        own = value.str.count_matches("[" + "".join(SCRIPTS[script] for script in profile.scripts) + "]")
        told = filled("{} of {} letters in {}", own, letters, pl.lit(", ".join(profile.scripts)))
        rules.append(("foreign-script", answer & (own < letters * _LETTERS_IN_SCRIPT), told))
    return rules


def _repeats(messages: pl.DataFrame, profile: CurationProfile) -> pl.Series:
    """Whether a message is an answer whose most frequent word makes too many of its words."""
    repeats = np.zeros(len(messages), np.bool_)
    limit = profile.max_repetition
    if limit is not None:
        answers = messages["answer"].arg_true()
        values = messages["value"].gather(answers)
        numbers, offsets = word_numbers(values)
        lengths = np.diff(offsets)
        likely = (lengths >= _FEWEST_WORDS) & (most_frequent(numbers, offsets) / np.maximum(lengths, 1) > limit)
        # Few are left, of which the words themselves decide.
        words = pl.col("value").str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+")
        often = words.list.eval(pl.element().value_counts(sort=True).struct.field("count").first()).list.first()
        sure = values.filter(pl.Series(likely)).to_frame().select(often / words.list.len() > limit).to_series()
        repeats[answers.to_numpy()[likely]] = sure.to_numpy()
    return pl.Series(repeats)


def _plain_answers(part: Part, messages: pl.DataFrame) -> PlainAnswers:
    answers = messages.filter("answer").select(AT, text=plain(pl.col("value")))
    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in answers["text"].to_list())
    pictures = part.index("image_sha256")
    numbers = pictures.select(AT, picture=pl.Series(halves(pictures["image_sha256"])[:, 0]))
    shown = answers.join(numbers, on=AT, how="left", maintain_order="left")["picture"].to_numpy()
    return answers[AT].to_numpy().astype(np.int64), np.frombuffer(digests, "<u8"), shown


def _shared(samples: Samples, parts: list[PlainAnswers]) -> pl.DataFrame:
    """Answers that too many pictures of a source share: the name of a collection says nothing of a picture."""
    if not parts:
        return no_rejects()
    at = np.concatenate([part[0] for part in parts])
    texts = np.concatenate([part[1] for part in parts])
    pictures = np.concatenate([part[2] for part in parts])
    sharing = np.zeros(len(at), np.int64)
    for source in samples.of("max_same_text"):
        place = samples.place(source)
        mine = slice(*np.searchsorted(at, [place.start, place.stop]).tolist())
        sharing[mine] = _pictures_of(texts[mine], pictures[mine])
    over = np.flatnonzero(sharing > samples.limits("max_same_text", at, np.inf))
    # The first such answer of each sample, and the how manieth of its answers it is.
    first = over[np.unique(at[over], return_index=True)[1]]
    number = first - np.searchsorted(at, at[first], "left")
    hits = pl.DataFrame({AT: at[first], "number": number, "sharing": sharing[first]}, schema_overrides={AT: pl.UInt32})
    marks = np.zeros(len(samples), np.bool_)
    marks[at[first]] = True
    return pl.concat([no_rejects(), *samples.map("shared texts", _told, samples.parts(of=marks), hits)])


def _pictures_of(texts: Numbers, pictures: Numbers) -> npt.NDArray[np.int64]:
    """How many different pictures each answer's text has."""
    order = np.lexsort((pictures, texts))
    text, picture = texts[order], pictures[order]
    new_text = np.ones(len(text), np.bool_)
    new_text[1:] = text[1:] != text[:-1]
    new = new_text.copy()
    new[1:] |= picture[1:] != picture[:-1]
    counts = np.add.reduceat(new, np.flatnonzero(new_text), dtype=np.int64) if len(text) else np.empty(0, np.int64)
    found = np.empty(len(text), np.int64)
    found[order] = counts[np.cumsum(new_text) - 1]
    return found


def _told(part: Part, hits: pl.DataFrame) -> pl.DataFrame:
    answers = part.messages().filter(pl.col("role") == "gpt")
    answers = answers.with_columns(number=pl.int_range(pl.len()).over(AT))
    told = filled("{} pictures have it: {}", "sharing", pl.col("value").str.slice(0, 120))
    hit = answers.join(hits, on=[AT, "number"], how="inner", maintain_order="left")
    return hit.select(AT, reason=pl.lit("shared-text"), evidence=told).cast(REJECTS)
