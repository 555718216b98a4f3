"""Questions about one picture, answered by a trained checkpoint on the command line."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fusion.errors import FusionError
from fusion.settings import load_settings

MAX_NEW_TOKENS = 64


class ChatError(FusionError):
    """There is no such picture or model, or the picture cannot be read."""


def chat_about(picture: Path, questions: list[str], model: str, root: Path = Path()) -> None:
    """Prints an answer to each question; earlier questions and answers stay in the conversation.

    `model` is a checkpoint folder or a variant. Without `questions` they are read from standard input, one a line.
    Raises `ChatError` for a missing or unreadable picture or a model that is not there.
    """
    if not picture.is_file():
        raise ChatError(f"there is no picture {picture}")
    folder = find_checkpoint(model, root)
    from fusion.model.checkpoints import load_checkpoint
    from fusion.model.template import Message, SampleError
    from fusion.quiet import quiet_libraries

    quiet_libraries()
    network, processor = load_checkpoint(folder)
    image = picture.read_bytes()
    messages: list[Message] = []
    for question in questions or _asked():
        messages.append({"from": "human", "value": question if messages else f"<image>\n{question}"})
        try:
            prompt = processor.encode_prompt(messages, image)
        except SampleError as error:
            raise ChatError(f"{picture}: {error.message}") from error
        answer = _answer(network, processor, prompt)
        messages.append({"from": "gpt", "value": answer})
        print(answer if len(questions) == 1 else f"{question}\n  {answer}")


def _answer(network: Any, processor: Any, prompt: Any) -> str:
    ids = network.generate_answers(processor.collate([prompt]), MAX_NEW_TOKENS)
    return str(processor.decode_answers(ids)[0])


def _asked() -> Iterator[str]:
    lines: Iterable[str] = sys.stdin
    if sys.stdin.isatty():
        print("Ask about the picture; an empty line ends.", file=sys.stderr)
    for line in lines:
        if not line.strip():
            return
        yield line.strip()


def find_checkpoint(model: str, root: Path = Path()) -> Path:
    """The folder of a model named by folder or variant; of a variant the package, else the newest stage."""
    if (Path(model) / "config.json").is_file():
        return Path(model)
    if model in load_settings(root / "params.yaml").variants:
        for folder in (
            root / "packages" / model,
            *(root / "checkpoints" / model / stage for stage in ("stage2", "stage1_5", "stage1")),
        ):
            if (folder / "config.json").is_file():
                return folder
        raise ChatError(f"{model} has not been trained yet: run `make run` with run.variants: [{model}]")
    raise ChatError(f"{model} is neither a checkpoint folder nor a variant of params.yaml")
