"""The real tokenizers of both language model families, put together from fetched vocabularies."""

from __future__ import annotations

import base64
import functools
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.model.fetched import fetch

_LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_NAMED = {
    0: "begin_of_text", 1: "end_of_text", 2: "reserved_special_token_0", 3: "reserved_special_token_1",
    4: "finetune_right_pad_id", 6: "start_header_id", 7: "end_header_id", 8: "eom_id", 9: "eot_id", 10: "python_tag",
}  # fmt: skip


@functools.cache
def llama3_tokenizer() -> PreTrainedTokenizerFast:
    """Llama 3.1: 128,000 byte-level tokens and 256 special ones."""
    (path,) = fetch("llama-models==0.3.0", "llama_models/llama3/tokenizer.model")
    ranks = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    letters = bytes_to_unicode()

    def word(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = []
    for token, rank in ranks.items():
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [(ranks[left], ranks[right], left, right) for left, right in halves if left in ranks and right in ranks]
        merges += [(rank, order, left, right) for order, (_, _, left, right) in enumerate(sorted(pairs))]
    merges.sort(key=lambda merge: merge[:2])
    tokenizer = Tokenizer(
        models.BPE(
            {word(token): rank for token, rank in ranks.items()},
            [(word(left), word(right)) for _, _, left, right in merges],
            ignore_merges=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    unnamed = iter(range(2, 256))
    special = [f"<|{_LLAMA_NAMED.get(i) or f'reserved_special_token_{next(unnamed)}'}|>" for i in range(256)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    begin = special[0]
    tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 128000)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token="<|eot_id|>")


def gguf_library() -> None:
    """Make the reader of GGUF files importable, which is no dependency of the project."""
    package, _ = fetch("gguf==0.19.0", "gguf/", "gguf-0.19.0.dist-info/")
    if str(package.parent) not in sys.path:
        sys.path.append(str(package.parent))


def reference_files() -> list[Path]:
    """Phi-3's vocabulary; then texts with the ids they should have, for Phi-3 and for Llama 3."""
    phi3, llama3 = (f"vendor/llama.cpp/models/ggml-vocab-{name}.gguf" for name in ("phi-3", "llama-bpe"))
    members = [phi3, f"{phi3}.inp", f"{phi3}.out", f"{llama3}.inp", f"{llama3}.out"]
    return fetch("llama-cpp-python==0.3.36", *members, source=True)


@functools.cache
def phi3_tokenizer() -> PreTrainedTokenizerFast:
    """Phi-3.5: 32,000 tokens and 11 special ones, which swallow the white space after them."""
    gguf_library()
    from transformers import AutoTokenizer

    path = reference_files()[0]
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    control = [token for index, token in tokenizer.added_tokens_decoder.items() if index >= 32001]
    tokenizer.add_tokens([AddedToken(token.content, rstrip=True, special=True, normalized=False) for token in control])
    return tokenizer
