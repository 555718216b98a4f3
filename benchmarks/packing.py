"""Packing: what share of a step's tokens is real, and how evenly they lie on the ranks.

    python -m benchmarks.packing [--steps 2000] [--datasets fusion-5m-stage1_5 ...] [--output FILE]

Lengths are drawn with a seed: the sources and their counts are the catalog's, the lengths within a category are assumed
(fusion/plan/lengths.yaml), since the published lists say nothing of them: a turn's tokens are log-normal, turns are
1 + Poisson. Batches, ranks, micro-batches, the limit of a length and
the numbers of latents are those of the published variant. Each step goes through the packing of training.

`real_share` is the real tokens over ranks x micro-batches x the largest pack: what is left if ranks wait for each other
after every micro-batch, which is the strictest case (ZeRO-3). `plain` is how it is without planning: samples in the
order in which they come, each micro-batch padded to its longest.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.report import surroundings, write_result
from fusion.data.catalog import load_catalog
from fusion.data.stream.order import Rows
from fusion.data.stream.packing import spread
from fusion.plan.traffic import assumed_lengths
from fusion.settings import load_settings

ROOT = Path(__file__).parents[1]
VARIANT = "fusion-phi35-3b"
IMAGE_TOKENS = 729
"""Of the tower at 384 pixels with patches of 14."""
RANKS = (1, 2, 8, 32)


class Samples(NamedTuple):
    """[n] each: tokens of the text, turns, whether there is a picture, and the set's largest length."""

    text: Rows
    turns: Rows
    pictures: npt.NDArray[np.bool_]
    longest: int

    def lengths(self, num_latents: int) -> Rows:
        """int64 [n]: positions after the markers are replaced."""
        return self.text + self.pictures * IMAGE_TOKENS + self.turns * num_latents


def samples(dataset: str, count: int, seed: int) -> Samples:
    """`count` samples of a published data set, those left out that training leaves out for their length."""
    catalog, settings = load_catalog(ROOT / "data/catalog"), load_settings(ROOT / "params.yaml")
    entry, variant = catalog.dataset(dataset), settings.variant(VARIANT)
    stage = settings.stage(VARIANT, entry.for_stage)  # type: ignore[arg-type]
    known = assumed_lengths()
    shapes = [known.categories[source.category] for source in entry.sources.values()]
    shares = np.array([source.count or 0 for source in entry.sources.values()], dtype=np.float64)
    generator = np.random.default_rng(seed)
    source = generator.choice(len(shapes), size=2 * count, p=shares / shares.sum())
    median, sigma, mean_turns = np.array([(shape.median, shape.sigma, shape.turns) for shape in shapes])[source].T
    turns = 1 + generator.poisson(mean_turns - 1)
    around = known.template.sample + known.template.turn * turns
    text = around + np.exp(generator.normal(np.log(median), sigma)) * turns
    pictures = np.array([shape.picture for shape in shapes])[source]
    found = Samples(text.astype(np.int64), turns.astype(np.int64), pictures, stage.max_length)
    fits = np.flatnonzero(found.lengths(max(variant.model.query_len)) <= found.longest)[:count]
    return Samples(found.text[fits], found.turns[fits], found.pictures[fits], found.longest)


def measure(
    drawn: Samples, global_batch: int, ranks: int, micro_batch: int, steps: int, seed: int = 0
) -> dict[str, Any]:
    """Means over steps; `largest_rank_over_mean` is of the tokens of a whole step."""
    choices = load_settings(ROOT / "params.yaml").variant(VARIANT).model.query_len
    generator = np.random.default_rng(seed)
    uneven, pictures_uneven, real, plain, seconds = [], [], [], [], 0.0
    for step in range(steps):
        part = slice(step * global_batch, (step + 1) * global_batch)
        lengths = drawn.lengths(int(generator.choice(choices)))[part]
        pictures = drawn.pictures[part]
        start = time.perf_counter()
        packs = spread(lengths, pictures, ranks, micro_batch)
        seconds += time.perf_counter() - start
        tokens = np.array([[lengths[pack].sum() for pack in own] for own in packs])
        shown = np.array([sum(int(pictures[pack].sum()) for pack in own) for own in packs])
        uneven.append(tokens.sum(1).max() / tokens.sum(1).mean())
        pictures_uneven.append(shown.max() / shown.mean())
        real.append(tokens.sum() / (tokens.max(0).sum() * ranks))
        batches = -(-len(lengths) // (ranks * micro_batch)) * ranks
        rows = np.zeros(batches * micro_batch, dtype=np.int64)
        rows[: len(lengths)] = lengths
        widest = rows.reshape(-1, ranks, micro_batch).max((1, 2))
        plain.append(lengths.sum() / (widest.sum() * ranks * micro_batch))
    return {
        "ranks": ranks,
        "micro_batches": len(packs[0]),
        "largest_rank_over_mean": round(float(np.mean(uneven)), 5),
        "largest_rank_over_mean_worst_step": round(float(np.max(uneven)), 5),
        "steps_within_5_percent": round(float(np.mean(np.array(uneven) <= 1.05)), 5),
        "pictures_of_the_fullest_rank_over_mean": round(float(np.mean(pictures_uneven)), 5),
        "real_share": round(float(np.mean(real)), 5),
        "real_share_plain": round(float(np.mean(plain)), 5),
        "planning_ms_a_step": round(1e3 * seconds / steps, 2),
    }


def run(datasets: list[str], steps: int) -> dict[str, Any]:
    """The tables of all data sets."""
    settings, catalog = load_settings(ROOT / "params.yaml"), load_catalog(ROOT / "data/catalog")
    tables = {}
    for name in datasets:
        batch = settings.stage(VARIANT, catalog.dataset(name).for_stage).global_batch  # type: ignore[arg-type]
        drawn = samples(name, batch * steps, 0)
        micro_batch = settings.variant(VARIANT).hardware.micro_batch
        tables[name] = {
            "global_batch": batch,
            "micro_batch": micro_batch,
            "tokens_at_fixed_q": quantiles(drawn, settings.variant(VARIANT).model.num_latents),
            "rows": [measure(drawn, batch, ranks, micro_batch, steps) for ranks in RANKS],
        }
        print(name)
        for row in tables[name]["rows"]:
            print("  " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return {"surroundings": surroundings(), "variant": VARIANT, "steps": steps, "datasets": tables}


def quantiles(drawn: Samples, num_latents: int) -> dict[str, float]:
    """Mean and quantiles of the lengths."""
    lengths = drawn.lengths(num_latents)
    cuts = {f"{share:.0%}": int(np.quantile(lengths, share)) for share in (0.01, 0.5, 0.99)}
    return {"mean": round(float(lengths.mean()), 1), **cuts, "longest": int(lengths.max())}


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    published = ["fusion-pretrain-10m", "fusion-5m-stage1_5", "fusion-7m-stage2"]
    parser.add_argument("--datasets", nargs="+", default=published)
    parser.add_argument("--output", default="packing")
    arguments = parser.parse_args()
    print(write_result(arguments.output, run(arguments.datasets, arguments.steps)))


if __name__ == "__main__":
    main()
