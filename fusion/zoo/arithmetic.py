"""Finds scores that no number of right answers can give."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from math import ceil, floor, gcd, lcm

from fusion.zoo.entries import SCALE_DIGITS, Column, Zoo


@dataclass(frozen=True)
class Finding:
    """An impossible score of one model: the nearest values that can be reached below and above it."""

    model: str
    column: str
    score: float
    below: Fraction
    above: Fraction
    rounded_up: bool
    """Whether the value below, rounded up instead of to nearest, gives the score."""
    noted: bool
    """Whether the zoo's notes say so already."""


def step_of(column: Column) -> Fraction | None:
    """The smallest step in which a score of `column` can move; None where that is not known.

    A share of n equally weighted questions moves in steps of 100 / n. A sum of shares is a multiple of the greatest
    common divisor of its parts' steps; not all multiples need be reachable, so nothing is called impossible wrongly.
    """
    counts = column.parts or ([column.questions] if column.questions else [])
    if not counts:
        return None
    return reduce(_common_divisor, (Fraction(100, count) for count in counts))


def _common_divisor(a: Fraction, b: Fraction) -> Fraction:
    return Fraction(gcd(a.numerator * b.denominator, b.numerator * a.denominator), a.denominator * b.denominator)


def is_possible(score: float, step: Fraction, digits: int = SCALE_DIGITS) -> bool:
    """Whether a multiple of `step` rounds to `score`, printed with `digits` digits; ties may go either way."""
    exact, half = Fraction(Decimal(str(score))), Fraction(1, 2 * 10**digits)
    return ceil((exact - half) / step) <= floor((exact + half) / step)


def can_refute(step: Fraction, digits: int = SCALE_DIGITS) -> bool:
    """Whether some printed score is impossible at all: with small steps every number can be reached."""
    unit = Fraction(1, 10**digits)
    if step <= unit:
        return False
    period = Fraction(lcm(step.numerator, unit.numerator), gcd(step.denominator, unit.denominator))
    return any(not is_possible(float(number * unit), step, digits) for number in range(int(period / unit)))


def impossible_scores(zoo: Zoo) -> list[Finding]:
    """Every published score that cannot come from the column's counts, in the order of the columns."""
    noted = {(name, score) for note in zoo.notes for name, scores in note.scores.items() for score in scores}
    unit = Fraction(1, 10**SCALE_DIGITS)
    found = []
    for column in zoo.columns:
        step = step_of(column)
        if step is None:
            continue
        for model in zoo.models:
            score = model.scores[column.name]
            if is_possible(score, step):
                continue
            exact = Fraction(Decimal(str(score)))
            below = floor(exact / step) * step
            rounded_up = ceil(below / unit) * unit == exact
            known = (column.name, score) in noted
            found.append(Finding(model.name, column.name, score, below, below + step, rounded_up, known))
    return found


def stale_notes(zoo: Zoo) -> list[str]:
    """Scores that a note calls impossible although the check does not find them, as "note: column score"."""
    found = {(finding.column, finding.score) for finding in impossible_scores(zoo)}
    return [
        f"{note.id}: {column} {score}"
        for note in zoo.notes
        for column, scores in note.scores.items()
        for score in scores
        if (column, score) not in found
    ]
