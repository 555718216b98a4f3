"""The searches behind near duplicates, against brute force."""

import tracemalloc

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.data.curate import hamming, words
from fusion.data.curate.greedy import GRID, Greedy
from fusion.data.curate.hamming import colour_difference, distance, near_batches, near_pairs, near_pairs_within
from fusion.data.curate.minhash import similar_pairs, word_grams


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), limit=st.integers(0, 15), count=st.integers(1, 40))
def test_near_hashes_are_all_found(seed: int, limit: int, count: int):
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 256, (count, 32), dtype=np.uint8)
    # Copies with some bits changed, around the limit.
    for target in range(1, count, 2):
        bits = np.unpackbits(hashes[generator.integers(0, target)])
        bits[generator.choice(256, generator.integers(0, limit + 3), replace=False)] ^= 1
        hashes[target] = np.packbits(bits)
    raw = [row.tobytes() for row in hashes]
    wanted = [[i, j] for i in range(count) for j in range(count) if distance(raw[i], raw[j]) <= limit]
    assert near_pairs(hashes, hashes, limit).tolist() == wanted
    half = count // 2
    wanted = [[i, j] for i in range(half) for j in range(count) if distance(raw[i], raw[j]) <= limit]
    assert near_pairs(hashes[:half], hashes, limit).tolist() == wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "_CANDIDATES", 3)
        assert near_pairs(hashes[:half], hashes, limit).tolist() == wanted
        batches = list(near_batches(hashes[:half], hashes, limit))
    assert all(len(batch) <= 3 for batch in batches)
    assert sorted(pair for batch in batches for pair in batch.tolist()) == wanted


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[at : at + 3]) for at in range(len(words) - 2)}


@pytest.mark.parametrize("seed", range(3))
def test_similar_texts_are_found_with_their_true_similarity(seed: int):
    generator = np.random.default_rng(seed)
    words = np.array(["sun", "sea", "dog", "cat", "red", "sky", "old", "new", "tea", "cup", "hat", "map"])
    texts = [" ".join(generator.choice(words, 80)) for _ in range(60)]
    for at in range(0, 60, 3):
        changed = texts[at].split()
        changed[int(generator.integers(0, 80))] = "elephant"
        texts[at + 1] = " ".join(changed).upper()
    texts += ["", "two words", texts[0]]
    wanted = {}
    for one in range(len(texts)):
        for other in range(one + 1, len(texts)):
            first, second = _shingles(texts[one]), _shingles(texts[other])
            if first and second and (value := len(first & second) / len(first | second)) >= 0.85:
                wanted[one, other] = value
    found = {(one, other): value for one, other, value in similar_pairs(pl.Series(texts), 0.85)}
    assert found == pytest.approx(wanted)
    assert len(found) >= 18


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(max_size=40)
        | st.lists(st.sampled_from(["Ab", "ab", "é", "Straße", "x1", "_", "-", "東京", "\u0130"])).map("".join),
        max_size=8,
    ),
    window=st.integers(1, 40),
)
def test_words_are_the_runs_of_letters_and_digits(texts: list[str], window: int):
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    column = pl.Series(texts, dtype=pl.String)
    wanted = column.str.to_lowercase().str.extract_all(r"[\p{L}\p{N}]+").to_list()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_WINDOW", window)
        words._usual_powers.cache_clear()
        numbers, offsets = words.word_numbers(column)
    words._usual_powers.cache_clear()
    assert np.diff(offsets).tolist() == [len(found) for found in wanted]
    flat = [word for found in wanted for word in found]
    assert len({*zip(flat, numbers.tolist(), strict=True)}) == len(set(flat)) == len(set(numbers.tolist()))
    counts = [max((found.count(word) for word in found), default=0) for found in wanted]
    assert words.most_frequent(numbers, offsets).tolist() == counts
    for size in (1, 3):
        grams, edges = words.runs(numbers, offsets, size)
        shingles = [[*zip(*(found[at:] for at in range(size)), strict=False)] for found in wanted]
        assert np.diff(edges).tolist() == [len(found) for found in shingles]
        named = [gram for found in shingles for gram in found]
        assert len({*zip(named, grams.tolist(), strict=True)}) == len(set(named)) == len(set(grams.tolist()))


def test_a_hash_of_a_word_does_not_depend_on_its_place():
    """Not even where a word is longer than what is hashed at a time."""
    long = "n" * 300_000
    numbers, offsets = words.word_numbers(pl.Series([f"see {long} end", "", long.upper(), "end SEE"]))
    assert offsets.tolist() == [0, 3, 3, 4, 6]
    assert numbers[1] == numbers[3] and numbers[2] == numbers[4] and numbers[0] == numbers[5]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), limit=st.integers(0, 15), count=st.integers(0, 60))
def test_near_hashes_within_one_set_are_all_found(seed: int, limit: int, count: int):
    generator = np.random.default_rng(seed)
    hashes = np.packbits(generator.random((count, 256)) < 0.03, axis=1)
    raw = [row.tobytes() for row in hashes]
    wanted = [[i, j] for i in range(count) for j in range(i + 1, count) if distance(raw[i], raw[j]) <= limit]
    pairs = near_pairs_within(hashes, limit, len(wanted))
    assert pairs is not None and pairs.tolist() == wanted
    if wanted:
        assert near_pairs_within(hashes, limit, len(wanted) - 1) is None


def test_one_cluster_is_kept_once_and_not_once_a_band():
    """2,000 hashes, all near to one another: two million pairs of 16 bytes, and what it takes to find them."""
    generator = np.random.default_rng(0)
    bits = np.zeros((2000, 256), np.bool_)
    for row in bits:
        row[generator.choice(256, 5, replace=False)] = True
    tracemalloc.start()
    pairs = near_pairs_within(np.packbits(bits, axis=1), 10, 2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pairs is not None and len(pairs) == 2000 * 1999 // 2 and (pairs[:, 0] < pairs[:, 1]).all()
    assert peak < 250_000_000, peak


def _plainly(hashes: list[bytes], limits: list[int], colours: list[bytes]) -> list[tuple[int, int, int]]:
    """Place, bits and place of the other of each picture that goes, one after the other."""
    kept: list[int] = []
    gone = []
    for place, limit in enumerate(limits):
        close = [
            (bits, other)
            for other in kept
            if (bits := distance(hashes[place], hashes[other])) <= limit
            and colour_difference(colours[place], colours[other]) <= 16
        ]
        if close:
            gone.append((place, *min(close)))
        else:
            kept.append(place)
    return gone


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 50),
    clusters=st.integers(1, 4),
    changed=st.integers(0, 6),
    shades=st.integers(1, 4),
    limits=st.lists(st.integers(1, 15), min_size=1, max_size=3),
    most=st.integers(0, 30),
)
def test_what_stays_does_not_depend_on_how_many_pairs_are_held(
    seed: int, count: int, clusters: int, changed: int, shades: int, limits: list[int], most: int
):
    generator = np.random.default_rng(seed)
    bits = (generator.random((clusters, 256)) < 0.02)[generator.integers(0, clusters, count)]
    for row in bits:
        row[generator.choice(256, generator.integers(0, changed + 1), replace=False)] ^= True
    hashes = np.packbits(bits, axis=1)
    # Steps of 12: one is alike, two are not.
    shade = 12 * generator.integers(0, shades, count)
    colours = np.repeat(shade[:, None], GRID, axis=1).astype(np.uint8)
    own = generator.choice(np.array(limits), count).astype(np.int64)
    wanted = _plainly([row.tobytes() for row in hashes], own.tolist(), [row.tobytes() for row in colours])
    for held in (most, 10_000):
        greedy = Greedy(hashes, own, colours, 16.0, held)
        greedy.decide(np.arange(count), near_pairs_within(hashes, max(limits), held))
        assert [*zip(*(column.tolist() for column in greedy.dropped()), strict=True)] == wanted


def test_ten_thousands_of_near_copies_take_neither_memory_nor_time():
    """30,000 hashes, all near to one another: 450 million pairs, which would take 7 GB."""
    count = 30_000
    generator = np.random.default_rng(0)
    bits = np.zeros((count, 256), np.bool_)
    bits[np.arange(count)[:, None], generator.integers(0, 256, (count, 5))] = True
    hashes, colours = np.packbits(bits, axis=1), np.zeros((count, GRID), np.uint8)
    limits = np.full(count, 31)
    tracemalloc.start()
    greedy = Greedy(hashes, limits, colours, 16.0, 500_000)
    greedy.decide(np.arange(count), near_pairs_within(hashes, 31, 500_000))
    places, _, others = greedy.dropped()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert places.tolist() == list(range(1, count)) and set(others.tolist()) == {0}
    assert peak < 600_000_000, peak


def test_grams_do_not_reach_over_the_end_of_a_text():
    grams, offsets = word_grams(pl.Series(["a b c", "d", "", "b c d e", "x"]), 3)
    assert np.diff(offsets).tolist() == [1, 0, 0, 2, 0]
    same, _ = word_grams(pl.Series(["zz", "B, c! D?"]), 3)
    assert same[0] in grams
