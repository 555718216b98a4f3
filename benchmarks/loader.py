"""The loader: pictures a second on a core, and the opening of ten million samples. `benchmarks.waits` is about waiting.

    python -m benchmarks.loader [--pictures 600] [--rounds 7] [--rows 10000000] [--work FOLDER] [--output FILE]

Pictures. `loader` is all that training does from shards to uint8 tensors: order, packs, reading, decoding, tokens,
collation. `plain` reads the same pictures from files one by one: open, convert, make the five views and send each
through the image processor of the Transformers library, which resizes and normalises in floating point. `limit` is
decoding and the larger one of the two resizes that cannot be done without, of bytes in memory; `both` has both. All on
one core in one thread; they take turns, figures are medians of rounds.

Opening. A manifest of so many rows is generated in all the columns that curation writes. A process of its own opens it
as a rank of the published variant does and asks for the first batch, for the first time on the machine and again.
Memory is counted above that after the imports: the largest ever, and what stays.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from benchmarks.manifests import DATASET, ROOT, TOKENIZER, write_manifest, write_pool
from benchmarks.report import surroundings, write_result
from fusion.model.configuration import FusionConfig
from fusion.model.images import decode_image
from fusion.model.processing import FusionProcessor, load_tokenizer
from fusion.settings import load_settings
from fusion.train.batches import RankBatches
from fusion.train.recipe import Recipe, make_recipe

VARIANT, STAGE = "fusion-phi35-3b", "stage1"
SIDE, PATCHES = 384, 27 * 27
_PLAIN = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=Image.Resampling.BICUBIC)


def make_processor(side: int = SIDE) -> FusionProcessor:
    """The embedded tokenizer with the pictures of the published tower."""
    tokenizer = load_tokenizer(ROOT / "data/tokenizers/tiny")
    config = FusionConfig(
        text_config={"model_type": "phi3", "vocab_size": len(tokenizer)},
        vision_config={"model_type": "siglip_vision_model", "image_size": side, "patch_size": 14},
        template="phi_3",
    )
    return FusionProcessor(tokenizer, config)


def make_set(folder: Path, pictures: int, rows: int) -> None:
    """A project's data: a pool of samples, one in twenty without a picture, and a manifest of `rows` rows over it."""
    texts = max(1, pictures // 20)
    pool = write_pool(folder, pictures, texts, make_processor().count_tokens)
    write_manifest(folder / "data/manifests" / DATASET / "manifest.parquet", rows, pool)


def recipe_of(folder: Path, ranks: int, workers: int) -> Recipe:
    """Stage 1 of the published variant."""
    made = make_recipe(load_settings(ROOT / "params.yaml"), VARIANT, STAGE, folder)
    assert made.dataset == DATASET and made.tokenizer == TOKENIZER
    hardware = made.hardware.model_copy(update={"ranks": ranks, "device": "cpu"})
    return replace(made, hardware=hardware, loading=made.loading.model_copy(update={"workers": workers}))


def pictures_a_second(folder: Path, pictures: int, rounds: int) -> dict[str, Any]:
    """Of the loader, the plain way and the limit, on one core."""
    torch.set_num_threads(1)
    processor, files = make_processor(), sorted((folder / "pictures").iterdir())[:pictures]
    contents = [file.read_bytes() for file in files]
    rank = RankBatches(recipe_of(folder, 1, 0), processor, PATCHES, 0)

    def loader() -> int:
        seen = 0
        for step in rank(0, folder / "notes"):
            seen += sum(len(batch["pixels"]) for batch in step.batches if batch is not None)
            if seen >= len(files):
                break
        return seen

    def plain() -> int:
        for file in files:
            plain_picture(file)
        return len(files)

    def limit() -> int:
        for content in contents:
            np.asarray(decode_image(content).resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC))
        return len(files)

    def both() -> int:
        for content in contents:
            picture = decode_image(content)
            for side in (2 * SIDE, SIDE):
                np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        return len(files)

    ways = {"loader": loader, "plain": plain, "limit": limit, "both": both}
    rates = take_turns(ways, rounds)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "pictures_a_second": {name: round(value, 1) for name, value in medians.items()},
        "loader_over_plain": round(ratio(rates["loader"], rates["plain"]), 3),
        "share_of_the_limit": round(ratio(rates["loader"], rates["limit"]), 3),
        "share_of_both_resizes": round(ratio(rates["loader"], rates["both"]), 3),
        "bytes_a_picture": round(statistics.mean(len(content) for content in contents)),
    }


def plain_picture(file: Path) -> torch.Tensor:
    """float32 [5, 3, S, S]: the five views, each through the image processor of the Transformers library."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    large = picture.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)
    corners = [(left, top) for top in (0, SIDE) for left in (0, SIDE)]
    views = [large.crop((left, top, left + SIDE, top + SIDE)) for left, top in corners]
    return torch.cat([_PLAIN(images=view, return_tensors="pt")["pixel_values"] for view in (*views, picture)])


def take_turns(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Pictures a second of processor time, which does not count what other programs take, for each round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            seen = way()
            if number:
                rates[name].append(seen / (time.process_time() - start))
    return rates


def ratio(first: list[float], second: list[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(first, second, strict=True))


def memory_mb() -> dict[str, float]:
    """Of this process now and at most, from the system."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {"now": int(values["VmRSS"].split()[0]) / 1024, "most": int(values["VmHWM"].split()[0]) / 1024}


def open_and_take_one(folder: Path, workers: int, ranks: int) -> dict[str, Any]:
    """What a rank does until its first batch; in a process of its own."""
    processor = make_processor()
    base = memory_mb()
    start = time.perf_counter()
    rank = RankBatches(recipe_of(folder, ranks, workers), processor, PATCHES, 0)
    opened = time.perf_counter()
    batches = rank(0, folder / "notes")
    first = next(batches)
    taken = time.perf_counter()
    more = min(20, rank.order.steps - 1)
    for _ in range(more):
        next(batches)
    steps = time.perf_counter()
    end = memory_mb()
    return {
        "rows": len(rank.manifest),
        "steps": rank.order.steps,
        "open_seconds": round(opened - start, 2),
        "first_batch_seconds": round(taken - start, 2),
        "seconds_a_step_after": round((steps - taken) / more, 3),
        "samples_of_the_first_step": first.samples,
        "most_mb_above_imports": round(end["most"] - base["most"], 1),
        "mb_above_imports_that_stay": round(end["now"] - base["now"], 1),
        "imports_mb": round(base["now"], 1),
    }


def opening(folder: Path, ranks: int, workers: int) -> dict[str, Any]:
    """The first opening on a machine, and the second, each in a fresh process."""
    for table in (folder / "scratch/tables").glob("*"):
        table.unlink()
    return {
        name: in_fresh_process(["--open", str(folder), "--ranks", str(ranks), "--workers", str(workers)])
        for name in ("first_time", "again")
    }


def in_fresh_process(arguments: list[str]) -> Any:
    """The last line of this file's output with `arguments`, as JSON."""
    command = [sys.executable, "-m", "benchmarks.loader", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def run(folder: Path, pictures: int, rounds: int, rows: int, workers: int) -> dict[str, Any]:
    """Both parts."""
    make_set(folder, pictures, 4 * pictures)
    report: dict[str, Any] = {"surroundings": surroundings(), "pictures": pictures, "rounds": rounds}
    report["one_core"] = pictures_a_second(folder, pictures, rounds)
    print(json.dumps(report["one_core"]), flush=True)
    make_set(folder, pictures, rows)
    report["opening"] = {"manifest_bytes": (folder / f"data/manifests/{DATASET}/manifest.parquet").stat().st_size}
    report["opening"] |= opening(folder, 32, workers)
    print(json.dumps(report["opening"]), flush=True)
    report["wanted"] = {"loader_over_plain": 2.0, "first_batch_seconds": 10, "most_mb_above_imports": 300}
    return report


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2, help="of the part that opens")
    parser.add_argument("--work", type=Path, help="folder for 4 GB; a temporary one if left out")
    parser.add_argument("--output", default="loader")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ranks", type=int, default=32, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.open:
        print(json.dumps(open_and_take_one(given.open, given.workers, given.ranks)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        result = run(folder, given.pictures, given.rounds, given.rows, given.workers)
    print(write_result(given.output, result))


if __name__ == "__main__":
    main()
