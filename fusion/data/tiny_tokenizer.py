"""Trains the tokenizer of the tiny variants on the embedded data: `python -m fusion.data.tiny_tokenizer`.

About a thousand tokens; any text survives encoding and decoding byte for byte; Phi-3's special tokens at the start,
with its habit of swallowing the white space that follows them. The result is in git: data/tokenizers/tiny/.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from fusion.data.catalog import Catalog, load_catalog
from fusion.data.ingest.origin import EmbeddedOrigin
from fusion.data.store.folders import output_folder
from fusion.files import write_json
from fusion.model.template import TEMPLATES

TARGET = Path("data/tokenizers/tiny")
VOCABULARY = 1024
_TURN_TOKENS = ("<|system|>", "<|end|>", "<|user|>", "<|assistant|>")
# The line break that the template writes after a picture is swallowed too: a question's first word stays one token.
_SWALLOW = (*_TURN_TOKENS, "<vision_end>")
_SPECIAL = ("<unk>", "<s>", "</s>", *_TURN_TOKENS, "<|endoftext|>", "<vision_start>", "<vision_end>")
# A word takes the space before it along; digits stand alone; a line break is a token of its own.
_PIECES = r" ?[\p{L}\p{M}]+| ?\p{N}|\n| ?[^\s\p{L}\p{M}\p{N}]+|[^\S\n]+(?=\S)|[^\S\n]+"


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of `VOCABULARY` tokens; equal texts give an equal tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # Every stretch of text starts with a space of its own, so that a word is one and the same token everywhere.
    tokenizer.normalizer = normalizers.Prepend(" ")
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(content=" ", left=1, right=0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[
            AddedToken(token, special=True, normalized=False, rstrip=token in _SWALLOW) for token in _SPECIAL
        ],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=3,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def embedded_texts(catalog: Catalog, root: Path) -> Iterator[str]:
    """All messages of the tiny data sets' embedded sources, and their questions strung together for the tower."""
    # The system text stands before every conversation, so its words are worth tokens of their own.
    yield from [TEMPLATES["phi_3"].system.removesuffix("<|end|>").removeprefix("<|system|>\n")] * 1000
    for name, dataset in sorted(catalog.datasets.items()):
        if name.startswith("tiny-"):
            for _, source in sorted(dataset.sources.items()):
                if isinstance(source.origin, EmbeddedOrigin):
                    for record in source.origin.records(root):
                        texts = [message["value"].replace("<image>\n", "") for message in record.conversations]
                        yield from texts
                        if len(texts) > 2:
                            yield "".join(texts[::2])


def write_tokenizer(tokenizer: Tokenizer, target: Path) -> None:
    """Writes `tokenizer` as a folder that Transformers loads."""
    with output_folder(target) as folder:
        document = json.loads(tokenizer.to_str())
        (folder / "tokenizer.json").write_text(
            json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
        write_json(
            {
                "bos_token": "<s>",
                "clean_up_tokenization_spaces": False,
                "eos_token": "<|end|>",
                "model_max_length": 2048,
                "pad_token": "<unk>",
                "tokenizer_class": "PreTrainedTokenizerFast",
                "unk_token": "<unk>",
            },
            folder / "tokenizer_config.json",
        )


def main() -> None:
    """Trains on the catalog's embedded texts and writes data/tokenizers/tiny/."""
    tokenizer = train_tokenizer(embedded_texts(load_catalog(), Path(".")))
    write_tokenizer(tokenizer, TARGET)
    print(f"{TARGET}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
