"""Answers in the form in which the VQA challenges compare them.

Source: the challenges' published evaluation (VQA, TextVQA, VizWiz): lower case, punctuation out, numbers as digits, no
articles, contractions with their apostrophe. Written anew; tests compare it with lmms-eval's.
"""

import re

_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't shan't should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_IRREGULAR = {
    "she'dve": "she'd've", "shed've": "she'd've", "somebody'd": "somebodyd", "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at", "yall'll": "y'all'll", "y'allll": "y'all'll",
    "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've",
}  # fmt: skip
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_LOOSE_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")


def _written() -> dict[str, str]:
    """Each contraction by how it is written with one of its apostrophes left out."""
    found = {}
    for word in _CONTRACTIONS.split():
        for index, letter in enumerate(word):
            if letter == "'":
                found[word[:index] + word[index + 1 :]] = word
    return found | _IRREGULAR


_WRITTEN = _written()


def vqa_text(answer: str) -> str:
    """An answer as it is compared with those of people."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    whole = text
    for sign in _PUNCTUATION:
        loose = f"{sign} " in whole or f" {sign}" in whole or _COMMA_IN_NUMBER.search(whole) is not None
        text = text.replace(sign, "" if loose else " ")
    text = _LOOSE_PERIOD.sub("", text)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_WRITTEN.get(word, word) for word in words if word not in _ARTICLES)
