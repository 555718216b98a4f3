"""Which option an answer names: by a letter at its beginning, its end, in brackets, after a phrase; or by its text.

Never a guess: None where no option or several are named.
"""

import re
from collections.abc import Mapping

_PHRASES = r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*"


def letter_of(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of `options` that `answer` names, or None.

    In this order: the whole answer is a letter; it begins with a letter that punctuation sets off ("A. the cat"); a
    letter after "answer is" or the like, the last one counting; one single letter in brackets; it ends with a letter,
    or begins with one that is no article; the text of exactly one option is in it. Several letters in brackets, and
    nothing that says which, name none.
    """
    letters = "".join(options)
    text = answer.strip()
    if not text:
        return None
    either = f"[{re.escape(letters)}]"
    bare = re.fullmatch(rf"[\s(\[\"'*]*({either})[\s)\].,:;!\"'*]*", text, re.IGNORECASE)
    if bare:
        return bare.group(1).upper()
    said = re.findall(rf"{_PHRASES}\(?({either})\b", text, re.IGNORECASE)
    # "the answer is a cat": a small article is no letter.
    said = [letter for letter in said if letter.isupper()]
    bracketed = set(re.findall(rf"\(({either})\)", text))
    if len(bracketed) > 1 and not said:
        return None
    start = re.match(rf"\(?({either})[).:,]|({either})\n", text)
    if start:
        return (start.group(1) or start.group(2)).upper()
    if said:
        return str(said[-1])
    if bracketed:
        return str(bracketed.pop())
    end = re.search(rf"(?:^|[\s(])({either})[).]?$", text)
    if end and len(text.split()) > 1:
        return end.group(1)
    first = re.match(rf"({either})\s", text)
    if first and first.group(1) != "A":
        return first.group(1)
    named = [letter for letter, option in options.items() if option.strip() and option.strip().lower() in text.lower()]
    # "a red car" names "car" as well: the longest counts when it holds the others.
    if len(named) > 1:
        longest = max(named, key=lambda letter: len(options[letter].strip()))
        inside = options[longest].strip().lower()
        named = [longest] if all(options[letter].strip().lower() in inside for letter in named) else named
    return named[0] if len(named) == 1 else None
