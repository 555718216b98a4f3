"""From conversations and pictures in the published data format to encoded samples and batches.

Source: design headings "Image input (static_hd)" and "Conversation templates".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fusion.model.batch import IGNORED, IMAGE_MARKER, LATENT_MARKER, EncodedSample, FusionBatch, collate
from fusion.model.configuration import FusionConfig
from fusion.model.images import decode_image, static_hd
from fusion.model.template import (
    IMAGE_TAG,
    LATENT_TAG,
    TEMPLATES,
    VISION_END,
    VISION_START,
    Message,
    SampleError,
    Turn,
    read_turns,
)

_MARKERS = {IMAGE_TAG: IMAGE_MARKER, LATENT_TAG: LATENT_MARKER}


class TokenCounts(NamedTuple):
    """What a sample costs; see FusionProcessor.count_tokens."""

    n_text_tokens: int
    n_turns: int
    n_instruct_tokens: int


class _Tokens(NamedTuple):
    input_ids: list[int]
    labels: list[int]
    question_ends: list[int]
    instruct_ids: list[int]


def _find(sequence: Sequence[int], part: Sequence[int]) -> list[int]:
    """Indices of the last element of each occurrence of `part`."""
    size = len(part)
    last = part[-1]
    ends = (index for index, value in enumerate(sequence) if value == last)
    return [end for end in ends if list(sequence[end + 1 - size : end + 1]) == list(part)]


def load_tokenizer(source: str | Path, **kwargs: Any) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a Hub id or folder; `kwargs` as for `AutoTokenizer.from_pretrained`.

    Raises:
        ValueError: there is only a slow one.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"tokenizer: {source} has no fast tokenizer, only {type(tokenizer).__name__}")
    return tokenizer


class SampleEncoder:
    """Tokenizer, template and image preparation of one model.

    The only control tokens of a prompt are those that the template writes. A text in which one stands (`<|end|>`,
    `<vision_start>`, `<latent_image>`, any special token of the tokenizer) is refused, never read as control.

    Args:
        tokenizer: a fast tokenizer that knows the template's end-of-turn token and the two vision tokens.
        config: of the model.

    Raises:
        ValueError: the tokenizer does not fit the template or the model's vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: FusionConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.template = TEMPLATES[config.template]
        self.image_size = config.image_size
        self.pad_token_id = self._padding()
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        if len(tokenizer) > config.vocab_size:
            raise ValueError(f"tokenizer: has {len(tokenizer)} tokens, the model a vocabulary of {config.vocab_size}")
        self.turn_end_id = self._single(self.template.turn_end)
        for tag, expected in ((VISION_START, config.vision_start_token_id), (VISION_END, config.vision_end_token_id)):
            found = self._single(tag)
            if expected not in (None, found):
                raise ValueError(f"tokenizer: {tag} has id {found}, the model expects {expected}")
        if config.end_of_turn_token_id not in (None, self.turn_end_id):
            raise ValueError(
                f"tokenizer: {self.template.turn_end} has id {self.turn_end_id}, "
                f"the model expects {config.end_of_turn_token_id}"
            )
        # The header is tokenised where it stands: some end-of-turn tokens swallow the newline after them.
        header = self._encode(self.template.turn_end + self.template.assistant_start)
        if not header or header[0] != self.turn_end_id:
            raise ValueError(f"tokenizer: {self.template.turn_end} is not kept whole before the assistant's header")
        self._header = header
        plain, full = self._encode("a"), list(self._backend.encode("a").ids)
        self._prefix = full[: next(i for i in range(len(full) + 1) if full[i : i + len(plain)] == plain)]
        control = {IMAGE_TAG, LATENT_TAG, VISION_START, VISION_END, *self._special_tokens()}
        self._control = re.compile("|".join(re.escape(token) for token in sorted(control, key=len, reverse=True)))

    def encode(
        self,
        conversations: Sequence[Message],
        image: Image.Image | bytes | None,
        *,
        max_length: int | None = None,
        num_latents: int | None = None,
        room: npt.NDArray[np.uint8] | None = None,
    ) -> EncodedSample:
        """Encode a training sample.

        Args:
            conversations: see `template.read_turns`; the last message is an answer.
            image: PIL picture or encoded file (see `images.decode_image`); None = text-only.
            max_length: most positions after the markers are replaced (see `count_tokens`); None = no limit.
            num_latents: q for that limit; None = the largest of the configuration's `query_len`.
            room: uint8 [5, 3, S, S] for the pixels; None = a new array.

        Raises:
            SampleError: with a reason code; see `template.ReasonCode`.
        """
        turns = read_turns(conversations, image is not None)
        return self.encode_turns(turns, image, max_length, num_latents or max(self.config.query_len), room)

    def encode_prompt(
        self,
        conversations: Sequence[Message],
        image: Image.Image | bytes | None,
        *,
        max_length: int | None = None,
        num_latents: int | None = None,
    ) -> EncodedSample:
        """Encode a conversation whose last message is a question, up to the assistant's header; nothing is supervised.

        Arguments and errors as for `encode`; `num_latents` None = the configuration's fixed number.
        """
        turns = read_turns(conversations, image is not None, for_generation=True)
        return self.encode_turns(turns, image, max_length, num_latents or self.config.num_latents)

    def encode_turns(
        self,
        turns: Sequence[Turn],
        image: Image.Image | bytes | None,
        max_length: int | None,
        num_latents: int,
        room: npt.NDArray[np.uint8] | None = None,
    ) -> EncodedSample:
        """Encode turns. Answers are supervised if each turn has one; else the sample is a prompt and nothing is.

        Arguments and errors as for `encode`.
        """
        tokens = self._tokenize(turns)
        if any(turn.answer is None for turn in turns):
            tokens = tokens._replace(labels=[IGNORED] * len(tokens.labels))
        return self._sample(tokens, image, max_length, num_latents, room)

    def count_tokens(self, conversations: Sequence[Message], has_image: bool) -> TokenCounts:
        """Count without touching pixels, exactly as `encode` would.

        Returns:
            n_text_tokens: tokens of the rendered conversation without the markers, special tokens included;
            n_turns: questions;
            n_instruct_tokens: tokens of the instruction that guides the tower, its special tokens included (1 for a
            text-only sample: the single id 0).
            Positions after the markers are replaced = n_text_tokens + (V if has_image else 0) + q * n_turns.

        Raises:
            SampleError: as `encode`, except for reasons of the picture and of the length.
        """
        tokens = self._tokenize(read_turns(conversations, has_image))
        text = sum(token >= 0 for token in tokens.input_ids)
        return TokenCounts(text, len(tokens.question_ends), len(tokens.instruct_ids))

    def collate(self, samples: Sequence[EncodedSample]) -> FusionBatch:
        """Right-padded batch; see `batch.collate`."""
        return collate(samples, self.pad_token_id, self.image_size)

    def decode_answers(self, answers: Iterable[Sequence[int]]) -> list[str]:
        """Text of generated ids, without special tokens and surrounding white space."""
        return [str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip() for ids in answers]

    def _padding(self) -> int:
        """The configured padding, else the template's, else the tokenizer's, else 0; no result depends on it."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        template = vocabulary.get(self.template.pad_token)
        candidates = (self.config.pad_token_id, template, self.tokenizer.pad_token_id, 0)
        return next(int(value) for value in candidates if value is not None)

    def _special_tokens(self) -> list[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        return [*self.tokenizer.all_special_tokens, *(token.content for token in added if token.special)]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _single(self, token: str) -> int:
        ids = self._encode(token)
        if len(ids) != 1 or self.tokenizer.convert_tokens_to_ids(token) != ids[0]:
            raise ValueError(f"tokenizer: {token} is not one token of its vocabulary")
        return ids[0]

    def check_texts(self, turns: Sequence[Turn]) -> None:
        """Refuse questions and answers with a control token in them.

        Raises:
            SampleError: "control_token_in_text".
        """
        for turn in turns:
            for text in (turn.question, turn.answer or ""):
                found = self._control.search(text)
                if found:
                    raise SampleError("control_token_in_text", f"the text contains {found.group()!r}")

    def _tokenize(self, turns: Sequence[Turn]) -> _Tokens:
        self.check_texts(turns)
        ids = list(self._prefix)
        for piece in self.template.pieces(turns):
            marker = _MARKERS.get(piece)
            ids.extend(self._encode(piece) if marker is None else [marker])
        labels, ends = self._supervise(ids, turns)
        has_image = any(turn.has_image for turn in turns)
        instruct = list(self._backend.encode("".join(turn.question for turn in turns)).ids) if has_image else [0]
        return _Tokens(ids, labels, ends, instruct)

    def _supervise(self, ids: list[int], turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
        """Labels and question ends, found by token ids alone."""
        ends = _find(ids, self._header)
        stops = [index for index, token in enumerate(ids) if token == self.turn_end_id]
        answered = sum(turn.answer is not None for turn in turns)
        if len(ends) != len(turns):
            raise SampleError("misaligned_tokens", f"{len(ends)} assistant headers for {len(turns)} turns")
        if len(stops) != 1 + len(turns) + answered:
            raise SampleError(
                "misaligned_tokens", f"{len(stops)} end-of-turn tokens, expected {1 + len(turns) + answered}"
            )
        labels = [IGNORED] * len(ids)
        # After the system text, stops alternate: end of a question, end of its answer.
        for end, stop in zip(ends[:answered], stops[2::2], strict=True):
            if not end + 1 < stop:
                raise SampleError("misaligned_tokens", "an answer has no token of its own")
            labels[end + 1 : stop + 1] = ids[end + 1 : stop + 1]
        return labels, ends

    def _sample(
        self,
        tokens: _Tokens,
        image: Image.Image | bytes | None,
        max_length: int | None,
        num_latents: int,
        room: npt.NDArray[np.uint8] | None,
    ) -> EncodedSample:
        length = sum(token >= 0 for token in tokens.input_ids) + num_latents * len(tokens.question_ends)
        length += self.config.num_patches if image is not None else 0
        if max_length is not None and length > max_length:
            raise SampleError("too_long", f"{length} positions with {num_latents} latents a turn, limit {max_length}")
        pixels = None if image is None else static_hd(decode_image(image), self.image_size, room)

        def array(values: list[int]) -> npt.NDArray[np.int64]:
            return np.asarray(values, dtype=np.int64)

        return EncodedSample(
            input_ids=array(tokens.input_ids),
            labels=array(tokens.labels),
            question_ends=array(tokens.question_ends),
            instruct_ids=array(tokens.instruct_ids),
            pixels=pixels,
        )
