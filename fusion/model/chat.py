"""A conversation about one picture (or none) that keeps what was decoded: each question costs its own turn alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event, Thread
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import StoppingCriteria, TextIteratorStreamer

from fusion.model.batch import LATENT_MARKER, FusionBatch
from fusion.model.decoding import DecoderState, Prompt, Segment
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.processing import FusionProcessor
from fusion.model.sight import PictureCache, PooledTiles, look_at_tiles
from fusion.model.template import Message


class ChatSession:
    """Questions and answers with the decoder's cache kept between them.

    The first question is an ordinary prompt. Each later one is read as a piece of its own: the end of the last answer,
    the question with its own q latents, the assistant's header. Its latents look at the picture again, led by THIS
    question (P = the last token of the header), and everything before is attended to as it lies in the cache.

    So the image tokens, which stand before the first question, stay as they were encoded for the first question: later
    questions do not guide the tower. Put exactly: a turn gives what one full prefill of the whole conversation gives,
    if that is encoded with the first question alone as the instruction T. (The design's T is all questions together;
    with it every new question would change the image tokens and with them everything after. For that, give the whole
    conversation to `model.generate`.) The answers stay in the cache as the ids that were generated, which need not be
    those that their text would be tokenised to.

    A turn that fails leaves the conversation as it was before.

    Args:
        model, processor: of one checkpoint. The model must not be trained while the session lives.
        image: see `FusionProcessor.encode_prompt`; None = a conversation without a picture.
        num_latents: q; None = the configured number.
        image_token_grid: see `FusionGeneration.generate`.
        pictures: shared by sessions, so that a picture's tiles are encoded once; None = one of this session's own.

    Raises:
        SampleError: in `ask`, if the picture or a question cannot be used.
    """

    def __init__(
        self,
        model: FusionForConditionalGeneration,
        processor: FusionProcessor,
        image: Image.Image | bytes | None = None,
        *,
        num_latents: int | None = None,
        image_token_grid: int | None = None,
        pictures: PictureCache | None = None,
    ) -> None:
        self.messages: list[Message] = []
        self._model = model
        self._processor = processor
        self._image = image
        self._num_latents = num_latents or model.config.num_latents
        self._image_token_grid = image_token_grid
        self._pictures = pictures if pictures is not None else PictureCache()
        self._batch: FusionBatch | None = None
        self._state: DecoderState | None = None
        self._ids: list[int] = []  # of the whole conversation, with markers, without the last answer's stop token
        self._unread: list[int] = []  # its last ids, which are not in the cache yet

    @property
    def ids(self) -> list[int]:
        """Ids of the conversation so far, with markers; a stop token is replaced by the next turn's beginning."""
        return list(self._ids)

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return 0 if self._state is None else self._state.filled

    def ask(self, question: str, *, max_new_tokens: int = 256, **options: Any) -> str:
        """The answer to the next question.

        Args:
            question: text.
            max_new_tokens: of the answer.
            options: of `FusionGeneration.generate`, greedy unless they say otherwise; `streamer` receives the answer
                while it is made. One answer is made: no beams, no several sequences.

        Returns:
            text without special tokens and surrounding white space.

        Raises:
            SampleError: the question or the picture cannot be used.
            ValueError: an option cannot work here, or positions run out (see `decoding.check_positions`).
        """
        for name in ("num_beams", "num_return_sequences"):
            if options.get(name) not in (None, 1):
                raise ValueError(f"{name}: a chat goes on from one answer; leave it out")
        first = self._state is None
        prompt, ids = self._first(question) if first else self._next(question)
        before = self.length
        shown = torch.tensor([self._ids + ids])
        options = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1} | options
        state = prompt.state
        try:
            found = self._model.continue_from(prompt, shown, max_new_tokens=max_new_tokens, **options)
            sequence = found if isinstance(found, Tensor) else found.sequences
            answer = sequence[0, shown.shape[1] :].tolist()
        except BaseException:
            if state is not None and not first:
                state.rewind(before)
            raise
        assert state is not None
        read = before + prompt.lengths[0] + len(answer) - 1
        state.rewind(read)
        unread = answer[-1:]
        config = options.get("generation_config")
        stops = options.get("eos_token_id", None if config is None else config.eos_token_id)
        if answer[-1] in self._model.stop_ids(stops):
            answer, unread = answer[:-1], []
        self._state, self._unread = state, unread
        self._ids += [*ids, *answer]
        text = self._processor.decode_answers([answer])[0]
        asked = f"<image>\n{question}" if first and self._image is not None else question
        self.messages += [{"from": "human", "value": asked}, {"from": "gpt", "value": text}]
        return text

    def stream(self, question: str, **options: Any) -> Iterator[str]:
        """The answer to the next question, piece by piece; arguments and errors as for `ask`.

        The answer is made in a thread. Leaving the iterator early ends it after the token that is being made; what was
        made until then is the answer.
        """
        streamer = TextIteratorStreamer(self._processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        left = _Left()
        criteria = [*options.pop("stopping_criteria", []), left]
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self.ask(question, streamer=streamer, stopping_criteria=criteria, **options)
            except BaseException as error:  # handed to the reader below
                failures.append(error)
            finally:
                streamer.end()

        thread = Thread(target=run, daemon=True)
        thread.start()
        try:
            yield from streamer
        finally:
            left.event.set()
            thread.join()
        if failures:
            raise failures[0]

    def _first(self, question: str) -> tuple[Prompt, list[int]]:
        asked = f"<image>\n{question}" if self._image is not None else question
        sample = self._processor.encode_prompt([{"from": "human", "value": asked}], self._image)
        batch = self._processor.collate([sample])
        prompt = self._model.prompt(batch, self._num_latents, self._image_token_grid, self._pictures)
        self._batch = batch
        state = DecoderState(self._model.model, room=256)
        return Prompt(prompt.lengths, prompt.segment, state), batch["input_ids"][0].tolist()

    def _next(self, question: str) -> tuple[Prompt, list[int]]:
        ids = self._turn_ids(question)
        read = [*self._unread, *ids]
        place = read.index(LATENT_MARKER)
        count = self._num_latents

        def segment() -> Segment:
            backbone, picture = self._model.model, self._tiles()
            device = picture.latents.device
            text = backbone.embed_tokens(torch.tensor([token for token in read if token >= 0], device=device))
            latents = picture.latents if self._image is not None else torch.zeros_like(picture.latents)
            length = len(text) + count
            return Segment(
                embeddings=torch.cat([text[:place], latents, text[place:]]).unsqueeze(0),
                lengths=[length],
                context=None if picture.context is None else picture.context.unsqueeze(0),
                question_positions=torch.tensor([length - 1], device=device),
                latent_positions=torch.arange(place, place + count, device=device).unsqueeze(0),
                question_grid=None,
            )

        return Prompt([len(read) - 1 + count], segment, self._state), ids

    def _turn_ids(self, question: str) -> list[int]:
        """Ids that follow an answer: end of its turn, the question with its marker, the assistant's header."""
        # What stands between does not depend on the earlier turns, so any will do: special tokens divide the text.
        turns: Sequence[str] = (question, question, question)
        messages: list[Message] = [
            {"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(turns)
        ]
        sample = self._processor.encode_prompt(messages, None)
        ids = sample.input_ids.tolist()
        start = ids.index(self._processor.turn_end_id, int(sample.question_ends[0]) + 1)
        return ids[start:]

    def _tiles(self) -> PooledTiles:
        assert self._batch is not None
        return look_at_tiles(self._model.model, self._batch["pixels"], self._num_latents, self._pictures)


class _Left(StoppingCriteria):
    """True once the reader of a stream has gone."""

    def __init__(self) -> None:
        self.event = Event()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)
