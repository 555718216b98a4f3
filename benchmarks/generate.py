"""Generation: a batch against one prompt at a time, and a chat's second turn against a full prefill.

    python -m benchmarks.generate [--rounds 7] [--new-tokens 32] [--threads N] [--output FILE]

Decoding is timed apart from the prefill: from the first step's logits to the last's, everything between included. The
ways that are compared take turns within a round, so that a change in the machine's load meets all of them; figures are
medians of rounds, ratios are medians of the rounds' ratios. Seconds are those of the clock, and for the ratios also
those of the processor, which do not count the time that other programs take. The model is random, of middle size: its
answers mean nothing, but the batch must give the same ids as one prompt at a time, and rows that do not are counted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import LlamaConfig, SiglipVisionConfig
from transformers.generation import LogitsProcessor, LogitsProcessorList

from fusion.model.batch import EncodedSample, FusionBatch
from fusion.model.chat import ChatSession
from fusion.model.configuration import FusionConfig
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.processing import FusionProcessor, load_tokenizer
from fusion.model.sight import PictureCache

TOKENIZER = Path(__file__).parents[1] / "data" / "tokenizers" / "tiny"
BATCH = 8
WORDS = ["what", "colour", "is", "the", "shape", "on", "the", "left", "of", "the", "large", "one", "and", "how", "many"]


class Seconds(NamedTuple):
    """Of the clock, and of the processor in all threads of this process."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        """The present."""
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: Seconds) -> Seconds:
        """From `start` until then."""
        return Seconds(self.clock - start.clock, self.processor - start.processor)


class Clock(LogitsProcessor):
    """Notes the time of each step's logits."""

    def __init__(self) -> None:
        self.times: list[Seconds] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.times.append(Seconds.now())
        return scores


def ratio(slow: list[Seconds], fast: list[Seconds], part: str = "clock") -> float:
    """Median over rounds of slow / fast."""
    pairs = zip(slow, fast, strict=True)
    return round(statistics.median(getattr(left, part) / getattr(right, part) for left, right in pairs), 2)


def middle(rounds: list[Seconds]) -> float:
    """Median seconds of the clock."""
    return statistics.median(one.clock for one in rounds)


def build_model(seed: int) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """Language model 512 wide, 8 layers, 32,000 tokens; tower 192 wide, 8 layers, 196 patches."""
    language = LlamaConfig(
        vocab_size=32_000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=192, intermediate_size=768, num_hidden_layers=9, num_attention_heads=6, image_size=112, patch_size=8
    )
    tokenizer = load_tokenizer(TOKENIZER)
    ids = tokenizer.convert_tokens_to_ids(["<|end|>", "<vision_start>", "<vision_end>"])
    config = FusionConfig(
        text_config=language, vision_config=vision, template="phi_3", num_of_vision_sampler_layers=3,
        interaction_heads=8, end_of_turn_token_id=ids[0], vision_start_token_id=ids[1], vision_end_token_id=ids[2],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = FusionForConditionalGeneration(config).eval()
    return model, FusionProcessor(tokenizer, config)


def picture(seed: int) -> Image.Image:
    """Random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (120, 160, 3), dtype=np.uint8))


def prompts(processor: FusionProcessor, count: int) -> list[EncodedSample]:
    """Questions of 5 to 150 words, every fourth without a picture."""
    samples = []
    for index in range(count):
        words = 5 + index * 145 // max(count - 1, 1)
        question = " ".join(WORDS[place % len(WORDS)] for place in range(words))
        seen = index % 4 != 3
        samples.append(
            processor.encode_prompt(
                [{"from": "human", "value": f"<image>\n{question}" if seen else question}],
                picture(index) if seen else None,
            )
        )
    return samples


def decode(model: FusionForConditionalGeneration, batch: FusionBatch, new_tokens: int) -> tuple[Seconds, Tensor]:
    """Seconds of all steps but the first, and the new ids [B, new_tokens]."""
    clock = Clock()
    processors = LogitsProcessorList([clock])
    found = model.generate(
        **batch, max_new_tokens=new_tokens, eos_token_id=[], do_sample=False, logits_processor=processors
    )
    return clock.times[-1].since(clock.times[0]), found[:, -new_tokens:]


def measure_decoding(
    model: FusionForConditionalGeneration, processor: FusionProcessor, rounds: int, new_tokens: int
) -> dict[str, Any]:
    """Tokens per second of a batch and of its prompts one at a time."""
    samples = prompts(processor, BATCH)
    together, singles = processor.collate(samples), [processor.collate([sample]) for sample in samples]
    batches: list[Seconds] = []
    ones: list[Seconds] = []
    wrong = 0
    decode(model, together, 4)
    for _ in range(rounds):
        seconds, ids = decode(model, together, new_tokens)
        alone = [decode(model, single, new_tokens) for single in singles]
        batches.append(seconds)
        ones.append(Seconds(*(sum(column) for column in zip(*(one for one, _ in alone), strict=True))))
        wrong = max(wrong, sum(not torch.equal(ids[row], one[0]) for row, (_, one) in enumerate(alone)))
    tokens = BATCH * (new_tokens - 1)
    return {
        "positions_of_prompts": model.prompt(together).lengths,
        "new_tokens": new_tokens,
        "batch_tokens_per_s": round(tokens / middle(batches), 1),
        "single_tokens_per_s": round(tokens / middle(ones), 1),
        "ratio": ratio(ones, batches),
        "ratio_in_processor_time": ratio(ones, batches, "processor"),
        "ratio_of_rounds": [ratio([one], [batch]) for one, batch in zip(ones, batches, strict=True)],
        "rows_with_other_ids": wrong,
    }


def measure_chat(
    model: FusionForConditionalGeneration, processor: FusionProcessor, rounds: int, answer_tokens: int
) -> dict[str, Any]:
    """Seconds until the second answer's first token: the turn alone, and the whole conversation anew."""
    first, second = " ".join(WORDS), " ".join(WORDS[::-1])
    options: dict[str, Any] = {"eos_token_id": [], "do_sample": False}
    turns: list[Seconds] = []
    fulls: dict[str, list[Seconds]] = {"full": [], "known": []}
    pictures, wrong, held, read = PictureCache(), 0, 0, 0
    for _ in range(rounds + 1):
        session = ChatSession(model, processor, picture(0), pictures=pictures)
        session.ask(first, max_new_tokens=answer_tokens, **options)
        held = session.length
        start = Seconds.now()
        session.ask(second, max_new_tokens=1, **options)
        turns.append(Seconds.now().since(start))
        read = session.length - held

        *ids, answer = session.ids
        guide = processor.encode_prompt([{"from": "human", "value": f"<image>\n{first}"}], picture(0))
        ends = np.array([int(guide.question_ends[0]), len(ids) - 1])
        whole = EncodedSample(np.array(ids), np.full(len(ids), -100), ends, guide.instruct_ids, guide.pixels)
        batch = processor.collate([whole])
        for name, times in fulls.items():
            start = Seconds.now()
            (again,) = model.generate_answers(batch, 1, stop_ids=(), pictures=pictures if name == "known" else None)
            times.append(Seconds.now().since(start))
            wrong += again != [answer]
    # The first round warms up.
    full, known, turn = fulls["full"][1:], fulls["known"][1:], turns[1:]
    return {
        "positions_kept": held,
        "positions_read": read,
        "turn_ms": round(1000 * middle(turn), 1),
        "full_prefill_ms": round(1000 * middle(full), 1),
        "full_prefill_with_known_tiles_ms": round(1000 * middle(known), 1),
        "ratio": ratio(full, turn),
        "ratio_in_processor_time": ratio(full, turn, "processor"),
        "ratio_with_known_tiles": ratio(known, turn),
        "other_first_tokens": wrong,
    }


def processor_name() -> str:
    """Of the machine, as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "generate.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, processor = build_model(arguments.seed)
    result = {
        "what": "greedy generation in float32: decoding a batch of 8 against one prompt at a time (prefill apart), and "
        "a chat's second turn through the cache against a prefill of the whole conversation",
        "model": "random weights; Llama-type decoder 512 wide, 8 layers, 2 of 8 heads for keys, 32,000 tokens; SigLIP-"
        "type tower 192 wide, 8 layers, 196 patches; 3 interaction layers, 16 latents a question",
        "command": f"python -m benchmarks.generate --rounds {arguments.rounds} --new-tokens {arguments.new_tokens} "
        f"--threads {arguments.threads} --seed {arguments.seed}",
        "hardware": f"{arguments.threads} thread(s) of {processor_name()}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "rounds": arguments.rounds,
        "decoding": measure_decoding(model, processor, arguments.rounds, arguments.new_tokens),
        "chat": measure_chat(model, processor, arguments.rounds, 32),
    }
    text = json.dumps(result, indent=2)
    print(text)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
