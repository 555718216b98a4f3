"""The two conversation templates: text in, pieces of prompt with image markers out.

Source: design heading "Conversation templates".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

IMAGE_TAG = "<image>"
LATENT_TAG = "<latent_image>"
VISION_START = "<vision_start>"
VISION_END = "<vision_end>"

ReasonCode = Literal[
    "no_turns",
    "wrong_roles",
    "empty_question",
    "empty_answer",
    "control_token_in_text",
    "image_marker_without_image",
    "image_without_marker",
    "image_not_in_first_turn",
    "too_many_images",
    "misaligned_tokens",
    "too_long",
    "image_unreadable",
    "image_empty",
    "image_too_large",
    "image_mode_unsupported",
]


class SampleError(ValueError):
    """A sample that cannot be used, with a reason code for a ledger and a message for a person."""

    def __init__(self, reason: ReasonCode, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[SampleError], tuple[ReasonCode, str]]:
        # Exceptions cross process borders in data loaders; the default would call __init__ with one argument.
        return (SampleError, (self.reason, self.message))


# "from" is a Python keyword, hence the functional form.
Message = TypedDict("Message", {"from": str, "value": str})


@dataclass(frozen=True)
class Turn:
    """One question and its answer, both stripped; `answer` is None in the turn that is to be generated."""

    question: str
    answer: str | None
    has_image: bool


@dataclass(frozen=True)
class Template:
    """The fixed strings around system text, questions and answers.

    Attributes:
        name: "phi_3" or "llama_3".
        system: the system turn, whole.
        user_start, assistant_start: headers before a question and before an answer.
        turn_end: the token that ends a turn.
        pad_token: fills batches; a tokenizer without it uses its own padding token.
        control_tokens: what the tokenizer must know as one token each.
    """

    name: str
    system: str
    user_start: str
    assistant_start: str
    turn_end: str
    pad_token: str
    control_tokens: tuple[str, ...]

    @property
    def _latents(self) -> str:
        return VISION_START + LATENT_TAG + VISION_END

    @property
    def _image(self) -> str:
        return VISION_START + IMAGE_TAG + VISION_END + "\n"

    def pieces(self, turns: Sequence[Turn]) -> list[str]:
        """The rendered prompt, cut at its markers: the marker tags stand as pieces of their own."""
        text = self.system
        pieces: list[str] = []
        for turn in turns:
            pieces += [text + self.user_start + VISION_START, LATENT_TAG]
            text = VISION_END
            if turn.has_image:
                pieces += [text + VISION_START, IMAGE_TAG]
                text = VISION_END + "\n"
            text += turn.question + self.turn_end + self.assistant_start
            if turn.answer is not None:
                text += turn.answer + self.turn_end
        return [*pieces, text]

    def render(self, turns: Sequence[Turn]) -> str:
        """The whole prompt as one string, with `<latent_image>` and `<image>` standing for the markers."""
        return "".join(self.pieces(turns))

    def parse(self, prompt: str) -> list[Turn] | None:
        """The turns of a rendered prompt, or None if it is none: `render` gives the same string back."""
        if not prompt.startswith(self.system + self.user_start):
            return None
        turns = []
        for part in prompt.removeprefix(self.system + self.user_start).split(self.user_start):
            body = part.removeprefix(self._latents)
            question, _, answer = body.removeprefix(self._image).partition(self.turn_end + self.assistant_start)
            given = answer.removesuffix(self.turn_end) if answer else None
            turns.append(Turn(question, given, has_image=body.startswith(self._image)))
        return turns if self.render(turns) == prompt else None


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template(
            name="phi_3",
            system="<|system|>\nYou are a helpful AI assistant.<|end|>",
            user_start="\n<|user|>\n",
            assistant_start="\n<|assistant|>\n",
            turn_end="<|end|>",
            pad_token="<unk>",
            control_tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ),
        Template(
            name="llama_3",
            system=(
                "<|start_header_id|>system<|end_header_id|>\n\n"
                "You are a helpful, highly intelligent language and vision assistant. You are able to understand the "
                "visual content that the user provides, and assist the user with a variety of tasks using natural "
                "language. Whenever an image is present in the conversation, very carefully examine it and consider "
                "its content when formulating your response.<|eot_id|>"
            ),
            user_start="<|start_header_id|>user<|end_header_id|>\n\n",
            assistant_start="<|start_header_id|>assistant<|end_header_id|>\n\n",
            turn_end="<|eot_id|>",
            pad_token="<|reserved_special_token_0|>",
            control_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
    )
}


def read_turns(conversations: Sequence[Message], has_image: bool, *, for_generation: bool = False) -> list[Turn]:
    """Questions and answers of a sample in the published format.

    Args:
        conversations: messages `{"from": "human" | "gpt", "value": text}`, alternating, a human first. `<image>`
            anywhere in the first human message stands for the image and is moved to the front of its turn.
        has_image: whether the sample comes with an image.
        for_generation: the last message is a question to be answered.

    Returns:
        The turns, texts stripped of surrounding white space.

    Raises:
        SampleError: roles do not alternate, a text is empty, or image and marker do not go together.
    """
    if not conversations:
        raise SampleError("no_turns", "the conversation is empty")
    roles = [message.get("from") for message in conversations]
    expected = ["human", "gpt"] * (len(roles) // 2) + (["human"] if for_generation else [])
    if roles != expected:
        end = "a human message" if for_generation else "an answer"
        raise SampleError("wrong_roles", f"messages must alternate human, gpt and end with {end}; got {roles}")
    values = [message.get("value") for message in conversations]
    if not all(isinstance(value, str) for value in values):
        raise SampleError("wrong_roles", "every message needs a text in 'value'")
    marked = [value.count(IMAGE_TAG) for value in values]
    if any(marked[1::2]):
        raise SampleError("control_token_in_text", f"an answer contains {IMAGE_TAG}")
    if sum(marked) > 1:
        raise SampleError("too_many_images", f"{sum(marked)} image markers; one image a sample is supported")
    if sum(marked) and not has_image:
        raise SampleError("image_marker_without_image", f"{IMAGE_TAG} in the text, but the sample has no image")
    if has_image and not sum(marked):
        raise SampleError("image_without_marker", f"the sample has an image, but no {IMAGE_TAG} in the text")
    if sum(marked) and not marked[0]:
        raise SampleError("image_not_in_first_turn", f"{IMAGE_TAG} must stand in the first question")
    turns = []
    for index in range(0, len(values), 2):
        question = values[index].replace(IMAGE_TAG, "").strip()
        answer = values[index + 1].strip() if index + 1 < len(values) else None
        if not question:
            raise SampleError("empty_question", f"turn {index // 2} has no question text")
        if answer == "":
            raise SampleError("empty_answer", f"turn {index // 2} has an empty answer")
        turns.append(Turn(question, answer, has_image=bool(marked[index])))
    return turns
