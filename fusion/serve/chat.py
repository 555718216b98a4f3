"""Questions about pictures, answered by a trained checkpoint on the command line while it writes."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.errors import FusionError
from fusion.settings import load_settings

if TYPE_CHECKING:
    from fusion.model.chat import ChatSession

MAX_NEW_TOKENS = 64
# A line that begins so, in place of a question, starts a new conversation about another picture.
IMAGE_COMMAND = "/image"


class ChatError(FusionError):
    """There is no such picture or model, the picture cannot be read, or the conversation has become too long."""


def chat_about(picture: Path, questions: list[str], model: str, root: Path = Path()) -> None:
    """Prints the answer to each question while it is made; earlier turns stay in the conversation.

    A single question prints its answer alone. Several are printed before their answers. Without `questions` they are
    read from standard input, one a line; `/image PATH` there goes on with another picture and a new conversation. See
    `ChatSession` for what the earlier turns mean to a later one.

    `model` is a checkpoint folder or a variant. Raises `ChatError` for a missing or unreadable picture, a model that is
    not there, or a question that cannot be used. Read from a terminal, a wrong question or picture is reported and the
    next line is waited for.
    """
    image = _read(picture)
    folder = find_checkpoint(model, root)
    from fusion.model.chat import ChatSession
    from fusion.model.checkpoints import load_checkpoint
    from fusion.model.sight import PictureCache
    from fusion.quiet import quiet_libraries

    quiet_libraries()
    network, processor = load_checkpoint(folder)
    pictures = PictureCache()
    session = ChatSession(network, processor, image, pictures=pictures)
    patient = not questions and sys.stdin.isatty()
    for line in questions or _asked():
        try:
            if not questions and line.split()[0] == IMAGE_COMMAND:
                picture = Path(line.removeprefix(IMAGE_COMMAND).strip())
                session = ChatSession(network, processor, _read(picture), pictures=pictures)
                continue
            if len(questions) != 1 and not patient:
                print(line)
            _answer(session, line, picture, indent="" if len(questions) == 1 else "  ")
        except ChatError as error:
            if not patient:
                raise
            print(error, file=sys.stderr)


def _answer(session: "ChatSession", question: str, picture: Path, indent: str) -> None:
    from fusion.model.template import SampleError

    begun = False
    try:
        for piece in session.stream(question, max_new_tokens=MAX_NEW_TOKENS):
            text = piece if begun else piece.lstrip()
            if text:
                print(text if begun else indent + text, end="", flush=True)
            begun = begun or bool(text)
    except SampleError as error:
        raise ChatError(f"{picture}: {error.message}") from error
    except ValueError as error:
        raise ChatError(f"{picture}: {error}") from error
    print()


def _read(picture: Path) -> bytes:
    if not picture.is_file():
        raise ChatError(f"there is no picture {picture}")
    return picture.read_bytes()


def _asked() -> Iterator[str]:
    lines: Iterable[str] = sys.stdin
    if sys.stdin.isatty():
        print(f"Ask about the picture; an empty line ends, {IMAGE_COMMAND} PATH takes another one.", file=sys.stderr)
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
