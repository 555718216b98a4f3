"""The processor in the shape of the Transformers library: chat messages and pictures in, tensors out; ids to text.

Source: design headings "Image input (static_hd)" and "Conversation templates".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin

from fusion.model.batch import IGNORED, IMAGE_MARKER, LATENT_MARKER, EncodedSample
from fusion.model.configuration import FusionConfig
from fusion.model.encoding import SampleEncoder, TokenCounts, load_tokenizer
from fusion.model.images import load_image
from fusion.model.messages import ChatMessage, read_messages
from fusion.model.template import IMAGE_TAG, LATENT_TAG, ReasonCode, SampleError, Turn

__all__ = ["FusionProcessor", "TokenCounts", "load_tokenizer"]

Conversation = Sequence[ChatMessage]
# Arguments of `from_pretrained` that say where files are found; all others are none of a processor's business.
_WHERE = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies", "subfolder")
_TAGS = {IMAGE_MARKER: IMAGE_TAG, LATENT_MARKER: LATENT_TAG}


class FusionProcessor(SampleEncoder, ProcessorMixin):
    """Tokenizer, template and image preparation of one model; see SampleEncoder for the published data format.

    Args:
        tokenizer: a fast tokenizer that knows the template's end-of-turn token and the two vision tokens.
        config: of the model.

    Raises:
        ValueError: the tokenizer does not fit the template or the model's vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: FusionConfig) -> None:
        super().__init__(tokenizer, config)
        # The template is code here: one prompt format, checked against the recorded ones.
        self.chat_template = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> FusionProcessor:  # type: ignore[override]
        """Read tokenizer and configuration from a folder or Hub repository, in our layout or the released one.

        Args:
            pretrained_model_name_or_path: written by `save_pretrained` or released.
            kwargs: where to look (`revision`, `cache_dir`, `token`, `local_files_only`, ...); code is never loaded.
        """
        where = {key: kwargs[key] for key in _WHERE if key in kwargs}
        config = FusionConfig.from_pretrained(pretrained_model_name_or_path, **where)
        return cls(load_tokenizer(pretrained_model_name_or_path, **where), config)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the tokenizer's files and config.json; `push_to_hub` and `kwargs` as in the Transformers library."""
        self.tokenizer.save_pretrained(save_directory)
        self.config.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(template={self.template.name!r}, tokenizer={self.tokenizer!r})"

    @property
    def model_input_names(self) -> list[str]:
        """Keys of the tensors that `__call__` gives."""
        return ["input_ids", "attention_mask", "lengths", "question_ends", "instruct_ids", "image_index", "pixels"]

    def __call__(
        self,
        text: str | Sequence[str] | Conversation | Sequence[Conversation] | None = None,
        images: Any = None,
        *,
        messages: Conversation | Sequence[Conversation] | None = None,
        padding_side: Literal["left", "right"] | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        allow_urls: bool = False,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Tensors of one or several samples.

        Args:
            text: a question, in which `<image>` stands for the picture; or a prompt that `apply_chat_template` made; or
                chat messages (`messages.py`); or a list of any of these. Texts of strangers belong into messages,
                where nothing they write is control.
            images: one picture a text, or a list with one (or None, or a list of one) for each text. A picture is
                what `images.load_image` takes. Messages may hold their pictures themselves.
            messages: another name for `text`.
            padding_side: "left" as in generation, "right" as in training; None = "right" if every sample ends with an
                answer, else "left".
            padding: rows are always padded to the longest; False is accepted for a single sample alone.
            max_length: most positions after the markers are replaced (see `count_tokens`); None = no limit. Nothing is
                cut: a sample that is longer is an error.
            allow_urls: whether http(s) addresses of pictures are fetched.
            return_tensors: "pt".

        Returns:
            input_ids: int64 [B, n], with the markers -200 (image) and -300 (latents);
            attention_mask: int64 [B, n], 1 for real tokens;
            lengths: int64 [B], real tokens;
            question_ends: int64 [B, turns], index in the row of input_ids of the last token before each answer, -1
            where a sample has fewer turns;
            instruct_ids: int64 [B, T], padded with 0;
            image_index: int64 [B], row of `pixels`, -1 for a text-only sample;
            pixels: uint8 [N, 5, 3, S, S];
            labels: int64 [B, n], -100 where unsupervised, only if a sample ends with an answer.

        Raises:
            SampleError: a sample cannot be used, with a reason code; see `template.ReasonCode`.
            ValueError: wrong arguments; the message starts with the argument's name.
        """
        if (text is None) == (messages is None):
            raise ValueError("text: give a text or messages, and not both")
        given = cast(Any, text if messages is None else messages)
        samples, single = self._split(given)
        if return_tensors not in ("pt", None):
            raise ValueError(f"return_tensors: {return_tensors!r} is not supported, only 'pt'")
        if padding_side not in (None, "left", "right"):
            raise ValueError(f"padding_side: {padding_side!r} is neither 'left' nor 'right'")
        if padding not in (True, "longest") and len(samples) > 1:
            raise ValueError(f"padding: {padding!r} is not supported; rows are padded to the longest")
        pictures = _share(images, len(samples), single)
        encoded = []
        for sample, own in zip(samples, pictures, strict=True):
            turns, picture = self._read(sample, own)
            image = None if picture is None else load_image(picture, allow_urls=allow_urls)
            encoded.append(self.encode_turns(turns, image, max_length, self.config.num_latents))
        return BatchFeature(self._tensors(encoded, padding_side))

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Conversation | Sequence[Conversation],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render chat messages as the model's prompt, or make tensors of them.

        Args:
            conversation: messages (`messages.py`), or a list of conversations.
            chat_template: None; the template belongs to the model.
            add_generation_prompt: whether the assistant's header follows the last question; None = it does if the last
                message is the user's. Tensors need it there.
            continue_final_message: False; an answer that was begun cannot be continued.
            tokenize: False gives text, in which `<image>` and `<latent_image>` stand for the markers and which
                `__call__` takes; True gives tensors.
            return_dict: all tensors of `__call__`; False gives input_ids alone.
            return_tensors, processor_kwargs, kwargs: as for `__call__` (`padding_side`, `images`, ...).

        Raises:
            as `__call__`; ValueError for what is not supported.
        """
        if chat_template is not None:
            raise ValueError("chat_template: the template belongs to the model and cannot be replaced")
        if continue_final_message:
            raise ValueError(
                "continue_final_message: an answer that was begun cannot be continued; end with a question"
            )
        options = {**kwargs, **(processor_kwargs or {})}
        samples, single = self._split(cast(Any, conversation))
        if tokenize:
            asks = [bool(sample) and sample[-1].get("role") == "user" for sample in samples]
            if add_generation_prompt is False and any(asks):
                raise ValueError("add_generation_prompt: must be True where the last message is a question")
            tensors = self(conversation, return_tensors=return_tensors, **options)
            return tensors if return_dict else tensors["input_ids"]
        pictures = _share(options.pop("images", None), len(samples), single)
        if options:
            raise ValueError(f"{next(iter(options))}: has no meaning without tokenize=True")
        prompts = []
        for sample, own in zip(samples, pictures, strict=True):
            turns, _ = read_messages(sample, own, system=self.template.system)
            self.check_texts(turns)
            prompt = self.template.render(turns)
            if add_generation_prompt is False and turns[-1].answer is None:
                prompt = prompt.removesuffix(self.template.assistant_start)
            prompts.append(prompt)
        return prompts[0] if single else prompts

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        """Text of ids [n], markers among them: left out with the special tokens, else shown as `<image>` and so on.

        `kwargs` as for the tokenizer's `decode`.
        """
        ids = [int(value) for value in token_ids]
        if skip_special_tokens:
            hidden = {self.config.vision_start_token_id, self.config.vision_end_token_id}
            kept = [value for value in ids if value >= 0 and value not in hidden]
            return str(self.tokenizer.decode(kept, skip_special_tokens=True, **kwargs))
        parts: list[str] = []
        start = 0
        for end in [*(index for index, value in enumerate(ids) if value < 0), len(ids)]:
            if end > start:
                parts.append(str(self.tokenizer.decode(ids[start:end], skip_special_tokens=False, **kwargs)))
            if end < len(ids):
                parts.append(_TAGS.get(ids[end], ""))
            start = end + 1
        return "".join(parts)

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """Texts of rows of ids, [B, n] or a list of rows; see `decode`."""
        return [self.decode(row, skip_special_tokens, **kwargs) for row in sequences]

    def post_process_image_text_to_text(
        self, generated_outputs: Iterable[Any], skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Texts of what `generate` gave, int64 [B, n], prompts included; see `decode`."""
        return self.batch_decode(generated_outputs, skip_special_tokens, **kwargs)

    def _split(self, given: Any) -> tuple[list[Any], bool]:
        """Samples, each a text or a conversation, and whether it was a single one."""
        if isinstance(given, str):
            return [given], True
        if not isinstance(given, Sequence) or not given:
            raise ValueError(f"text: expected a text, messages or a list of them, got {given!r}")
        if isinstance(given[0], Mapping):
            return [given], True
        if not all(isinstance(sample, str | Sequence) for sample in given):
            raise ValueError("text: a list must hold texts or conversations alone")
        return list(given), False

    def _read(self, sample: str | Conversation, pictures: list[Any]) -> tuple[list[Turn], Any | None]:
        if not isinstance(sample, str):
            return read_messages(sample, pictures, system=self.template.system)
        prompt = sample.removeprefix(str(self.tokenizer.bos_token or ""))
        turns = self.template.parse(prompt)
        if turns is None:
            content = [{"type": "image"}] * sample.count(IMAGE_TAG)
            question = {"type": "text", "text": sample.replace(IMAGE_TAG, "")}
            return read_messages([{"role": "user", "content": [*content, question]}], pictures)
        places = sum(turn.has_image for turn in turns)
        if places != len(pictures):
            reason: ReasonCode = "image_without_marker" if places < len(pictures) else "image_marker_without_image"
            raise SampleError(reason, f"the prompt has {places} places for {len(pictures)} pictures")
        return turns, pictures[0] if pictures else None

    def _tensors(self, samples: Sequence[EncodedSample], padding_side: str | None) -> dict[str, Tensor]:
        tensors = dict(self.collate(samples))
        width = tensors["input_ids"].shape[1]
        mask = (torch.arange(width) < tensors["lengths"].unsqueeze(1)).long()
        if padding_side is None:
            padding_side = "right" if all((sample.labels != IGNORED).any() for sample in samples) else "left"
        if padding_side == "left":
            shift = width - tensors["lengths"].unsqueeze(1)
            index = (torch.arange(width) - shift) % width
            for name in ("input_ids", "labels"):
                tensors[name] = tensors[name].gather(1, index)
            mask = mask.gather(1, index)
            ends = tensors["question_ends"]
            tensors["question_ends"] = torch.where(ends >= 0, ends + shift, ends)
        if bool((tensors["labels"] == IGNORED).all()):
            del tensors["labels"]
        return tensors | {"attention_mask": mask}


def _share(images: Any, count: int, single: bool) -> list[list[Any]]:
    """The pictures of each of `count` samples."""
    if images is None:
        return [[] for _ in range(count)]
    if not isinstance(images, list | tuple):
        images = [images]
    # One sample takes a flat list as its own pictures, so that too many are its error.
    rows: list[Any] = list(images)
    if single and not (len(rows) == 1 and isinstance(rows[0], list | tuple)):
        rows = [rows]
    if len(rows) != count:
        raise ValueError(f"images: {len(rows)} for {count} texts")
    lists = [list(row) if isinstance(row, list | tuple) else [row] for row in rows]
    return [[picture for picture in row if picture is not None] for row in lists]
