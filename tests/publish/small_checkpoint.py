"""A real checkpoint with random weights, as small as it can be."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import Phi3Config, PreTrainedTokenizerFast, SiglipVisionConfig

from fusion.model.checkpoints import build_from_base, save_checkpoint

SPECIALS = ("<unk>", "<s>", "</s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def write_checkpoint(folder: Path, seed: int = 1) -> None:
    """A real checkpoint with random weights, a few hundred kilobytes."""
    words = [
        "what",
        "shape",
        "is",
        "in",
        "the",
        "image",
        "?",
        "a",
        "red",
        "circle",
        "yes",
        "no",
        "\n",
        ".",
        "You",
        "are",
    ]
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), behavior="removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS[3:])})
    language = Phi3Config(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, pad_token_id=0,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=16
    )
    options = {"query_len": [4], "num_latents": 4, "window_size": 1, "num_of_vision_sampler_layers": 1}
    model, processor = build_from_base(language, vision, tokenizer, template="phi_3", seed=seed, **options)
    save_checkpoint(model, processor, folder)
