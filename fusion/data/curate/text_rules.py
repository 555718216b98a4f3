"""Patterns and expressions of the text block."""

import polars as pl

CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u{FFFD}\u{FFFE}\u{FFFF}]"
"""Control characters other than tab and line breaks, and what decoders write for bytes they could not read."""
_NOT_SEEN = " \t\r\n\u00a0\u00ad\u034f\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\u2800\u3000\u3164\ufeff"
EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
_SIGNS = r"=^{}$_*/<>+\-\\\u{2212}\u{00B1}\u{00D7}\u{00B7}\u{00F7}%|~&"
_FREE = rf"(?:(?m:^)[ \t]*|[^\s\p{{L}}\p{{N}})\]{_SIGNS}][ \t]*|[\p{{L}})\]]\s+)"
"""What stands before a phone number. A `+` behind a digit, letter or sign of formulas adds, and begins no number."""
PHONE = (
    # Country, area and the rest, or country with area and the rest, or parts between dots.
    rf"({_FREE}\+[0-9]{{1,3}}(?:[ -]|[ .-]?\([0-9]{{1,4}}\)[ .-]?)[0-9]{{1,4}}(?:[ .-]?[0-9]{{2,4}}){{2,4}}"
    rf"|{_FREE}\+[0-9]{{4,6}}(?:[ -][0-9]{{6,8}}|(?:[ -][0-9]{{2,4}}){{2,4}})"
    rf"|{_FREE}\+[0-9]{{1,3}}\.[0-9]{{2,4}}(?:\.[0-9]{{2,4}}){{2,4}}"
    # Behind another number, as in a list, with blanks alone.
    rf"|[0-9]\s+\+[0-9]{{1,3}} [0-9]{{1,4}}(?:[ .-]?[0-9]{{2,4}}){{2,4}}"
    # One word: as many digits as such numbers have, and nothing behind that goes on with a formula.
    rf"|{_FREE}\+[1-9][0-9]{{8,14}}(?:$|[^\p{{L}}\p{{N}}.,{_SIGNS}]|[.,](?:$|[^0-9]))"
    rf"|{_FREE}\([0-9]{{3}}\) ?[0-9]{{3}}-[0-9]{{4}}\b)"
)
"""Phone numbers: international ones, and national ones of North America."""
_MAYBE_PHONE = r"\+[0-9]|\([0-9]{3}\)"
"""Found in a tenth of the time that PHONE takes, because of how it begins."""
CARD = r"\b[0-9]{4}([ -])[0-9]{4}[ -][0-9]{4}[ -][0-9]{4}\b"
SCRIPTS = {
    "arabic": r"\p{Arabic}",
    "cyrillic": r"\p{Cyrillic}",
    "devanagari": r"\p{Devanagari}",
    "greek": r"\p{Greek}",
    "han": r"\p{Han}",
    "hangul": r"\p{Hangul}",
    "hebrew": r"\p{Hebrew}",
    "kana": r"\p{Hiragana}\p{Katakana}",
    "latin": r"\p{Latin}",
    "thai": r"\p{Thai}",
}
_FILE_NAME = r"(?i)^[^\s]+\.(jpe?g|png|gif|svg|webp|bmp|tiff?|eps|pdf|psd|ai)$"
_IDENTIFIER = r"^[\p{L}\p{N}]*([_-][\p{L}\p{N}]+)*[_-]?[0-9]{2,}[\p{L}\p{N}_-]*$"
_PLACEHOLDER = (
    r"(?i)^(untitled|unnamed|unknown|none|null|nan|n/?a|todo|tbd|test|title|name|image|img|picture|pic|photo|drawing|"
    r"graphic|clip ?art|icon|logo|file|new|copy|default|document|layer|object|shape|svg|"
    r"no (title|caption|description))[\s\p{P}\p{N}]*$"
)


def has(pattern: str, text: pl.Expr) -> pl.Expr:
    """Whether a text holds what EMAIL, CARD or PHONE describe."""
    if pattern == PHONE:
        text = pl.when(text.str.contains(_MAYBE_PHONE)).then(text)
    return text.str.contains(pattern).fill_null(False)


def visible(text: pl.Expr) -> pl.Expr:
    """Text without what cannot be seen at its ends: an answer of zero-width spaces is an empty one."""
    return text.str.strip_chars().str.strip_chars(_NOT_SEEN)


def plain(text: pl.Expr) -> pl.Expr:
    """Text without case, and with each number, month and weekday name of a date and punctuation as one sign."""
    lower = text.str.to_lowercase().str.strip_chars()
    undated = lower.str.replace_all(
        r"\b(mon|tue|wed|thu|fri|sat|sun)[a-z]*\b|\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b", "#"
    )
    return undated.str.replace_all(r"[\s\p{P}\p{S}\p{N}]+", "#")


def useless(stripped: pl.Expr) -> pl.Expr:
    """Whether a stripped answer is no caption: no letters, a file name, a numbered identifier, or a placeholder."""
    no_letters = ~stripped.str.contains(r"\p{L}")
    return (
        no_letters
        | stripped.str.contains(_FILE_NAME)
        | stripped.str.contains(_IDENTIFIER)
        | stripped.str.contains(_PLACEHOLDER)
    )
