"""The patterns of personal data: usual forms of phone numbers are found, formulas are none."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.data.curate.text_rules import PHONE, has


def found(*texts: str) -> list[bool]:
    return pl.DataFrame({"text": texts}).select(has(PHONE, pl.col("text"))).to_series().to_list()


NUMBERS = [
    "+49 30 1234 5678",
    "+49-30-1234-5678",
    "+49 (30) 1234-5678",
    "+49 (0)30 12345678",
    "+49 151 12345678",
    "+49151 12345678",
    "+4930 1234 5678",
    "+4915112345678",
    "+14155550100",
    "+1 (415) 555-0100",
    "+1-415-555-0100",
    "+1.415.555.0100",
    "+33 1 23 45 67 89",
    "+44 20 7946 0958",
    "+7 (495) 123-45-67",
    "+86 138 0013 8000",
    "+351 912 345 678",
    "(415) 555-0100",
]
AROUND = [
    "{}",
    "call {} for more",
    "Tel.: {}.",
    "({})",
    "tel:{}",
    "my number is {}, ask for Jo",
    "home\n{}\n",
    "Ring {}!",
]
FORMULAS = [
    "1250000+3750000",
    "1250000 + 3750000",
    "x = 3+14159265",
    "10^{+1234567}",
    "y=+1234567890",
    "$+1234567890$",
    "a+1234567890",
    "3 +14159265358",
    "+3.14159265",
    "(+3.14159265)",
    "2*(+1234567)",
    "(a+b)+1234567890",
    "f(100)200-3000",
    "5+49-30-1234-5678",
    "x+1000-2000-3000-4000",
    "1e+1234567890",
]


@pytest.mark.parametrize("number", NUMBERS)
def test_usual_forms_are_found(number: str):
    assert found(*(around.format(number) for around in AROUND)) == [True] * len(AROUND)


def test_a_number_behind_another_is_found():
    assert found("room 5 +49 30 1234 5678", "phone (home) +49 30 1234 5678", "2024\n+49 30 1234 5678") == [True] * 3


def test_formulas_are_no_phone_numbers():
    assert not any(found(*FORMULAS))


numbers = st.integers(0, 10**10).map(str) | st.decimals(0, 10**7, places=4).map(str) | st.sampled_from("xyn")
operators = st.sampled_from(["+", "-", "*", "/", "=", "^", " + ", " - ", " = ", "=+", "^{+", "\\times ", "e+"])
begins = st.sampled_from(["", "what is ", "$", "compute: ", "("])
formulas = st.tuples(begins, st.lists(st.tuples(numbers, operators), min_size=1, max_size=6), numbers)


@given(made=st.lists(formulas, min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_no_made_up_formula_is_one(made: list[tuple[str, list[tuple[str, str]], str]]):
    texts = [begin + "".join(map("".join, parts)) + end for begin, parts, end in made]
    assert not any(found(*texts))
