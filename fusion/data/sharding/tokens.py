"""Token counts without the model: the prompts of fusion/model/template.py through the `tokenizers` library.

Exactly as FusionProcessor.count_tokens counts (a test holds the two together), without importing its libraries: every
shard process would pay seconds for that.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from fusion.data.errors import DataError
from fusion.data.store.sample import Message
from fusion.model.template import IMAGE_TAG, LATENT_TAG, TEMPLATES, VISION_END, VISION_START, SampleError, read_turns


@dataclass(frozen=True, slots=True)
class TokenCount:
    """`text`: tokens of the rendered conversation without the two markers; `instruct`: of the tower's instruction."""

    text: int
    instruct: int


class TokenCounter:
    """Counts the tokens of conversations for one tokenizer and template."""

    def __init__(self, name: str, revision: str | None, template: str) -> None:
        """Loads the tokenizer `name` (a folder with tokenizer.json, or a Hub id); raises `DataError` when it cannot."""
        self._tokenizer = load_tokenizer(name, revision)
        self._template = TEMPLATES[template]
        plain, full = (self._tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        self._prefix = next(at for at in range(len(full)) if full[at : at + len(plain)] == plain)
        special = {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}
        # Most pieces of a data set repeat: the system text, the markers' surroundings, short answers.
        self._piece_tokens = lru_cache(maxsize=1 << 14)(self._count_piece)
        self._control = re.compile("|".join(map(re.escape, sorted({*special, IMAGE_TAG, LATENT_TAG}, reverse=True))))

    def count(self, conversations: Sequence[Message], has_image: bool) -> TokenCount:
        """Counts one conversation.

        Raises:
            SampleError: the conversation cannot be rendered, with the model's own reason code.
        """
        turns = read_turns(conversations, has_image)
        for turn in turns:
            for text in (turn.question, turn.answer or ""):
                if found := self._control.search(text):
                    raise SampleError("control_token_in_text", f"the text contains {found.group()!r}")
        pieces = [piece for piece in self._template.pieces(turns) if piece not in (IMAGE_TAG, LATENT_TAG)]
        tokens = self._prefix
        for piece in pieces:
            tokens += self._piece_tokens(piece)
        with_image = any(turn.has_image for turn in turns)
        instruct = len(self._tokenizer.encode("".join(turn.question for turn in turns)).ids) if with_image else 1
        return TokenCount(tokens, instruct)

    def _count_piece(self, piece: str) -> int:
        return len(self._tokenizer.encode(piece, add_special_tokens=False).ids)


@cache
def load_tokenizer(name: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a folder or Hub id, with the two vision tokens that every FUSION model adds."""
    file = Path(name) / "tokenizer.json"
    try:
        if file.is_file():
            tokenizer = Tokenizer.from_file(str(file))
        elif Path(name).exists() or name.startswith(("data/", "./", "/")):
            raise DataError(f"{file} is missing: the catalog names {name} as a tokenizer")
        elif revision is None:
            raise DataError(f"no revision of {name} is named: which tokens were counted could not be told later")
        else:
            tokenizer = Tokenizer.from_pretrained(name, revision=revision)
    except DataError:
        raise
    except Exception as error:  # the library raises bare Exception for every failure
        raise DataError(f"the tokenizer {name} cannot be loaded: {error}") from error
    missing = [token for token in (VISION_START, VISION_END) if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    return tokenizer
