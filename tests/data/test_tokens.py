"""Tokens: counted as the model counts them; the tiny tokenizer loses nothing."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.data.sharding.tokens import TokenCounter, load_tokenizer
from fusion.model.template import IMAGE_TAG, SampleError
from tests.data.workshop import talk

TINY = "data/tokenizers/tiny"
TEXT = st.text(st.characters(codec="utf-8")).filter(lambda text: text.strip() and "<" not in text)


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter(TINY, None, "phi_3")


@pytest.fixture(scope="module")
def processor():
    from fusion.model.processing import FusionProcessor
    from fusion.model.processing import load_tokenizer as load

    facts = {"image_size": 32, "pad_token_id": 0, "vocab_size": 1024, "template": "phi_3"}
    ids = dict.fromkeys(["vision_start_token_id", "vision_end_token_id", "end_of_turn_token_id"])
    return FusionProcessor(load(TINY), SimpleNamespace(**facts, **ids))


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(TEXT, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0), image=st.booleans())
def test_counts_are_those_of_the_model(counter: TokenCounter, processor, texts: list[str], image: bool):
    conversations = talk(*texts, image=image)
    count, model = counter.count(conversations, image), processor.count_tokens(conversations, image)
    assert (count.text, count.instruct, len(texts) // 2) == (
        model.n_text_tokens,
        model.n_instruct_tokens,
        model.n_turns,
    )


@pytest.mark.parametrize(
    ("conversations", "image"),
    [
        ([], False),
        (talk("one"), False),
        (talk("a", "b")[::-1], False),
        (talk("a", "b<|end|>"), False),
        (talk("a <vision_start>", "b"), False),
        (talk("a", f"b {IMAGE_TAG}", image=True), True),
        (talk(f"a {IMAGE_TAG}", "b", image=True), True),
        (talk("a", "b"), True),
        (talk("a", "b", image=True), False),
        (talk("a", " "), False),
        (talk("a", "b", f"{IMAGE_TAG} c", "d"), True),
    ],
)
def test_what_the_model_refuses_is_refused_for_the_same_reason(counter: TokenCounter, processor, conversations, image):
    reasons = []
    for count in (counter.count, processor.count_tokens):
        with pytest.raises(SampleError) as caught:
            count(conversations, image)
        reasons.append(caught.value.reason)
    assert reasons[0] == reasons[1]


@given(text=st.text(st.characters(codec="utf-8")))
def test_the_tiny_tokenizer_loses_nothing(text: str):
    tokenizer = load_tokenizer(TINY)
    if not any(token.content in text for token in tokenizer.get_added_tokens_decoder().values()):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert max(ids, default=0) < 1024


def test_the_words_of_the_scenes_are_single_tokens():
    from fusion.data.origins.scenes.picture import COLOURS, SHAPES
    from fusion.data.origins.scenes.words import WORDS

    tokenizer = load_tokenizer(TINY)
    words = [
        *COLOURS,
        *SHAPES,
        *WORDS,
        *"0123456789",
        "yes",
        "no",
        "left",
        "above",
        "day",
        "house",
        "rectangle",
        "teal",
    ]
    assert [word for word in words if len(tokenizer.encode(word, add_special_tokens=False).ids) != 1] == []


def test_the_special_tokens_have_their_places():
    tokenizer = load_tokenizer(TINY)
    known = ["<unk>", "<s>", "</s>", "<|system|>", "<|end|>", "<|user|>", "<|assistant|>"]
    assert [tokenizer.token_to_id(token) for token in known] == list(range(7))
    assert tokenizer.encode("red").tokens[0] == "<s>"
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(TINY)
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id, len(loaded)) == (0, 1, 4, 1024)
    assert loaded.decode(loaded("a red star.").input_ids, skip_special_tokens=True) == "a red star."
