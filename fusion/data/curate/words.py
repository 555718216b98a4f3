"""Words of texts as 64-bit numbers, and runs of words: whole columns at a time, from the bytes of the texts.

A word is a run of letters and digits, case apart. Its number depends on its bytes alone, so that the numbers of
benchmarks and samples, and of different machines, can be compared: a polynomial of its bytes, modulo 2^64, mixed
(Karp and Rabin, "Efficient randomized pattern-matching algorithms", 1987), taken from sums over a window of bytes.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

Numbers = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_JOIN = np.uint64(0x100000001B3)
_WINDOW = 1 << 17
"""Bytes that are hashed at a time: what is computed of them stays in the processor's caches."""
_GRAMS = 1 << 16


def mix(values: Numbers) -> Numbers:
    """The finaliser of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def word_numbers(texts: pl.Series) -> tuple[Numbers, Offsets]:
    """The numbers of all words of all texts, in order, and offsets [len(texts) + 1] of each text's own."""
    data, edges = _letters(texts)
    numbers, starts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for start, end in _windows(data, edges):
        inside = edges[np.searchsorted(edges, start, "right") : np.searchsorted(edges, end, "left")] - start
        found, at = _hash_window(data[start:end], inside)
        numbers.append(found)
        starts.append(at + start)
    offsets = np.searchsorted(np.concatenate(starts), edges, "left").astype(np.int64)
    return np.concatenate(numbers), offsets


def runs(words: Numbers, offsets: Offsets, size: int) -> tuple[Numbers, Offsets]:
    """The numbers of all runs of `size` words, in order and with repetitions; none reaches over a text's end."""
    counts = np.maximum(np.diff(offsets) - (size - 1), 0)
    total = len(words) - size + 1
    if total <= 0:
        return np.empty(0, np.uint64), np.zeros(len(offsets), np.int64)
    joined = np.empty(total, np.uint64)
    for start in range(0, total, _GRAMS):
        end = min(start + _GRAMS, total)
        part = words[start:end].copy()
        for shift in range(1, size):
            part *= _JOIN
            part += words[start + shift : end + shift]
        joined[start:end] = mix(part)
    whole = np.ones(len(words), np.bool_)
    for back in range(1, size):
        at = offsets[1:] - back
        whole[at[at >= offsets[:-1]]] = False
    return joined[whole[:total]], np.concatenate([[0], np.cumsum(counts)])


def distinct(numbers: Numbers, offsets: Offsets) -> tuple[Numbers, Offsets]:
    """The distinct numbers of each text, sorted within it."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((numbers, owner))
    numbers, owner = numbers[order], owner[order]
    first = np.ones(len(numbers), dtype=np.bool_)
    first[1:] = (numbers[1:] != numbers[:-1]) | (owner[1:] != owner[:-1])
    kept = np.concatenate([[0], np.cumsum(first)])
    return numbers[first], kept[offsets].astype(np.int64)


def most_frequent(words: Numbers, offsets: Offsets) -> npt.NDArray[np.int64]:
    """At least how often the most frequent word of each text comes, 0 for one without words.

    An upper bound: 32 bits of a word's number are compared, so that in a very rare text two words count as one.
    """
    owner = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64), np.diff(offsets))
    keys = np.sort((owner << np.uint64(32)) | (words >> np.uint64(32)))
    most = np.zeros(len(offsets) - 1, np.int64)
    if len(keys):
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        lengths = np.diff(np.concatenate([starts, [len(keys)]]))
        owners = (keys[starts] >> np.uint64(32)).astype(np.int64)
        firsts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
        most[owners[firsts]] = np.maximum.reduceat(lengths, firsts)
    return most


def utf8(texts: pl.Series) -> tuple[npt.NDArray[np.uint8], Offsets]:
    """The bytes of all texts one after the other, and offsets [len(texts) + 1] of each text's own."""
    array = texts.rechunk().to_arrow()
    _, offsets, data = array.buffers()
    edges = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
    return content[edges[0] : edges[-1]], edges - edges[0]


def _letters(texts: pl.Series) -> tuple[npt.NDArray[np.uint8], Offsets]:
    """Bytes in which every byte of a letter or digit is one of ASCII, or not of ASCII at all."""
    foreign = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if len(foreign):
        plain = texts.gather(foreign).str.to_lowercase().str.replace_all(r"[^\p{L}\p{N}]+", " ")
        texts = texts.clone().scatter(foreign, plain)
    return utf8(texts)


@cache
def _tables() -> tuple[npt.NDArray[np.bool_], Numbers]:
    """By byte: whether it is of a word, and its random factor, which is the same for both cases of a letter."""
    letters = np.zeros(256, np.bool_)
    for first, last in (("0", "9"), ("A", "Z"), ("a", "z")):
        letters[ord(first) : ord(last) + 1] = True
    letters[128:] = True
    factors = np.random.Generator(np.random.PCG64(20250414)).integers(1, 2**63, 256, dtype=np.uint64)
    factors[ord("A") : ord("Z") + 1] = factors[ord("a") : ord("z") + 1]
    return letters, factors


def _powers(base: int, size: int) -> Numbers:
    # A longer window, which one word makes, is too rare to be kept.
    return _usual_powers(base) if size <= _WINDOW else _make_powers(base, size)


@cache
def _usual_powers(base: int) -> Numbers:
    return _make_powers(base, _WINDOW)


def _make_powers(base: int, size: int) -> Numbers:
    powers = np.full(size, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _windows(data: npt.NDArray[np.uint8], edges: Offsets) -> Iterator[tuple[int, int]]:
    """Parts of the bytes that cut no word: whole texts, or of a long text what ends between words."""
    letters, _ = _tables()
    start, size = 0, len(data)
    while start < size:
        end = min(start + _WINDOW, size)
        whole = int(edges[np.searchsorted(edges, end, "right") - 1])
        if whole > start:
            end = whole
        else:
            between = np.flatnonzero(~letters[data[start:end]])
            last = int(edges[np.searchsorted(edges, start, "right")])
            while not len(between) and end < last:  # one word longer than the window
                start_of_next, end = end, min(end + _WINDOW, last)
                between = np.flatnonzero(~letters[data[start_of_next:end]]) + (start_of_next - start)
            if len(between):
                end = start + int(between[-1]) + 1
        yield start, end
        start = end


def _hash_window(data: npt.NDArray[np.uint8], breaks: Offsets) -> tuple[Numbers, Offsets]:
    """Numbers and first bytes of the words; a text begins at each of `breaks`."""
    letters, factors = _tables()
    size = len(data)
    word = letters[data]
    before, after = np.zeros_like(word), np.zeros_like(word)
    before[1:], after[:-1] = word[:-1], word[1:]
    before[breaks], after[breaks - 1] = False, False
    starts, ends = np.flatnonzero(word & ~before), np.flatnonzero(word & ~after) + 1
    sums = np.zeros(size + 1, np.uint64)
    np.cumsum(factors[data] * _powers(_BASE, size)[:size], out=sums[1:])
    return mix((sums[ends] - sums[starts]) * _powers(_INVERSE, size)[starts]), starts
