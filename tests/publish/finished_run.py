"""A finished run of the variant `tiny` as the stages leave it, small, with real pictures and a real checkpoint."""

import csv
import io
import json
import math
import random
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import yaml
from PIL import Image, ImageDraw

from fusion.data.catalog import Catalog
from fusion.data.ingest.origin import Origin
from fusion.evaluate.benchmark import load_benchmark
from fusion.evaluate.outcomes import benchmark_outcome, write_outcomes
from fusion.evaluate.records import weights_sha256
from fusion.hashing import file_sha256
from fusion.lineage.record import record_stage
from fusion.settings import Settings, load_settings
from tests.adopted import adopt
from tests.publish.small_checkpoint import write_checkpoint
from tests.publish.stages import dvc_yaml

HERE = Path(__file__).parents[2]
COLOURS = {
    "red": "#d33",
    "blue": "#2b59c3",
    "green": "#2c8a3d",
    "yellow": "#e3b505",
    "black": "#222",
    "brown": "#7a4a21",
}
SHAPES = ("circle", "square", "triangle")

SOURCES: dict[str, dict[str, tuple[str, str, str | None]]] = {
    "tiny-stage1": {
        "clipart-captions": ("short captions", "web", "CC0-1.0"),
        "scenes-captions": ("long captions", "rendered", "Apache-2.0"),
    },
    "tiny-stage1_5": {
        "scenes-conversations": ("general", "rendered", "Apache-2.0"),
        "text": ("language", "text", None),
    },
    "tiny-stage2": {
        "easy-vqa": ("general", "rendered", "MIT"),
        "scenes-questions": ("counting", "rendered", "Apache-2.0"),
    },
}
REASONS = {
    "clipart-captions": [
        ("shard", "undecodable-picture", "image file is truncated (12 bytes not processed)"),
        ("image", "blank", "contrast 1.3 below 4.0"),
        ("text", "useless-text", "title is a file name: icon-32x32"),
        ("near-duplicates", "near-duplicate-picture", "distance 4 of tiny-stage1/clipart-captions/{twin}"),
        ("text", "too-short", "2 characters, at least 3"),
    ],
    "text": [("text", "repetition", "`very` is 71% of 14 words")],
}
BLOCKS = ("schema", "image", "text", "exact-duplicates", "near-duplicates", "contamination", "mixture")


class DrawnOrigin(Origin):
    """A stand-in for the kinds of origin: the report asks for nothing but the catalog's words."""

    kind: ClassVar[str] = "drawn"


def catalog() -> Catalog:
    """The catalog of the run."""
    tokenizers = {"tiny": {"name": "data/tokenizers/tiny", "template": "phi_3"}}
    titles = ("Captions", "General conversations", "Questions and answers")
    datasets = {
        name: {
            "file": "data/catalog/tiny.yaml", "title": f"{title}, tiny", "for_stage": name.removeprefix("tiny-"),
            "tokenizers": tokenizers,
            "sources": {
                source: {
                    "origin": DrawnOrigin(), "sampling": "all", "category": category, "profile": profile,
                    "licence": {"declared": licence or "CC-BY-4.0", "verified": licence},
                }
                for source, (category, profile, licence) in SOURCES[name].items()
            },
        }
        for title, name in zip(titles, SOURCES, strict=True)
    }  # fmt: skip
    benchmarks = {
        name: {"file": "x", "title": title, "origin": DrawnOrigin(), "licence": {"declared": "MIT"}}
        for name, title in (("easy-vqa-test", "easy-VQA, test split"), ("scenes-test", "Held-out scenes"))
    }
    return Catalog.model_validate({"datasets": datasets, "benchmarks": benchmarks})


def picture(rng: random.Random, side: int = 64) -> tuple[bytes, str, str]:
    """A drawn shape: its PNG, its colour, its name."""
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    image = Image.new("RGB", (side, side), "white")
    x, y, r = rng.uniform(0.35, 0.65) * side, rng.uniform(0.35, 0.65) * side, rng.uniform(0.15, 0.3) * side
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    elif shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    else:
        draw.polygon(((x, y - r), (x + r, y + r), (x - r, y + r)), fill=COLOURS[colour])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue(), colour, shape


def clipart(count: int) -> list[tuple[bytes, str]]:
    """Pictures of the clip art with their titles."""
    titles = {
        item["path"]: item["title"] for item in json.loads((HERE / "data/samples/clipart/captions.json").read_text())
    }
    found = []
    with tarfile.open(HERE / "data/samples/clipart/images.tar") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None and member.name.removeprefix("images/") in titles:
                found.append((file.read(), titles[member.name.removeprefix("images/")]))
            if len(found) == count:
                break
    return found


def add(tar: tarfile.TarFile, name: str, data: bytes) -> tuple[int, int]:
    """Adds a member; returns where its bytes lie."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
    assert tar.fileobj is not None
    end = tar.fileobj.tell()
    return end - (len(data) + 511) // 512 * 512, len(data)


def write_dataset(root: Path, dataset: str, samples: int, scale: int) -> None:
    """Shards, indexes, manifest, ledger and summary of a data set; `scale` multiplies the counts of the summary."""
    rng = random.Random(dataset)
    ids, ledger, sources = [], [], {}
    drawings = clipart(samples)
    for source in SOURCES[dataset]:
        rows, rejected = [], {}
        folder = root / f"data/shards/{dataset}/{source}"
        folder.mkdir(parents=True)
        with tarfile.open(folder / "000000.tar", "w") as tar:
            for number in range(samples):
                name = f"{dataset}/{source}/{number:08d}"
                image, colour, shape = picture(rng)
                question, answer = "What is in the picture?", f"A {colour} {shape} on a white ground."
                if source == "clipart-captions":
                    image, answer = drawings[number]
                elif source == "text":
                    question, answer = "Name a primary colour.", f"{colour.capitalize()} is one of them."
                turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
                record = json.dumps({"conversations": turns, "id": name}, sort_keys=True).encode()
                where = add(tar, f"{number:08d}.json", record)
                place = (None, None) if source == "text" else add(tar, f"{number:08d}.webp", image)
                rows.append((name, f"data/shards/{dataset}/{source}/000000.tar", *where, *place))
                possible = REASONS.get(source, [])
                if possible and number % 3 == 0:
                    block, reason, evidence = possible[number // 3 % len(possible)]
                    ledger.append((name, source, block, reason, evidence.format(twin=f"{number + 1:08d}")))
                    rejected[f"{block}/{reason}"] = rejected.get(f"{block}/{reason}", 0) + scale
                else:
                    ids.append(name)
        schema = ["sample_id", "shard", "record_offset", "record_size", "image_offset", "image_size"]
        index = root / f"data/index/{dataset}/{source}/index.parquet"
        index.parent.mkdir(parents=True)
        kinds = [pl.String, pl.String, pl.Int64, pl.Int64, pl.Int64, pl.Int64]
        readable = [row for row in rows if not any(row[0] == entry[0] and entry[2] == "shard" for entry in ledger)]
        pl.DataFrame(readable, schema=dict(zip(schema, kinds, strict=True)), orient="row").write_parquet(index)
        lost = sum(rejected.values())
        counts = {"ingested": samples * scale, "kept": samples * scale - lost, "rejected": lost}
        sources[source] = {**counts, "reasons": rejected}
    folder = root / f"data/manifests/{dataset}"
    folder.mkdir(parents=True)
    shards = [f"data/shards/{name.rpartition('/')[0]}/000000.tar" for name in ids]
    pl.DataFrame({"sample_id": ids, "shard": shards}).write_parquet(folder / "manifest.parquet")
    columns = dict.fromkeys(("sample_id", "source", "block", "reason", "evidence"), pl.String)
    pl.DataFrame(ledger, schema=columns, orient="row").write_parquet(folder / "ledger.parquet")
    total = {key: sum(source[key] for source in sources.values()) for key in ("ingested", "kept", "rejected")}
    left = total["ingested"] - scale * sum(entry[2] == "shard" for entry in ledger)
    blocks = []
    for block in BLOCKS:
        dropped = scale * sum(entry[2] == block for entry in ledger)
        blocks.append({"block": block, "in": left, "dropped": dropped, "reasons": {}})
        left -= dropped
    summary = {**total, "draws": total["kept"], "sources": sources, "blocks": blocks, "categories": {}, "tokens": {}}
    (folder / "summary.json").write_text(json.dumps(summary))


def write_training(root: Path, settings: Settings, steps: int) -> None:
    """The curves and facts of the stages that are trained."""
    ends = {"stage1": (6.6, 1.9), "stage1_5": (2.4, 0.7), "stage2": (0.9, 0.21)}
    for stage in settings.variant("tiny").stage_names:
        top, low = ends[stage]
        rng = random.Random(stage)
        folder = root / f"results/tiny/{stage}"
        folder.mkdir(parents=True)
        with (folder / "loss.csv").open("w", newline="") as file:
            names = [
                "step",
                "epoch",
                "loss",
                "cross_entropy",
                "text_mapping",
                "image_mapping",
                "learning_rate",
                "vision_learning_rate",
            ]
            writer = csv.writer(file)
            writer.writerow(names)
            for step in range(1, steps + 1):
                entropy = low + (top - low) * math.exp(-5.0 * step / steps) + rng.gauss(0, 0.05 * top * 0.4)
                mapping = 0.05 + 0.15 * math.exp(-3.0 * step / steps)
                writer.writerow([step, 0, entropy + mapping, entropy, 0.5, 0.5, 1e-3, 1e-3])
        by_source = {}
        with (folder / "loss_by_source.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "category", "source", "loss", "tokens", "samples"])
            for number, (source, (category, *_)) in enumerate(SOURCES[f"tiny-{stage}"].items()):
                for step in range(1, steps + 1):
                    loss = low + number * 0.3 + (top - low) * math.exp(-5.0 * step / steps)
                    writer.writerow([step, category, source, loss, 400 * (number + 1), 16])
                totals = {"loss": low + 0.5, "tokens": 400 * steps, "samples": 16 * steps}
                by_source[source] = {**totals, "loss_at_the_end": low + number * 0.3}
        chosen = settings.stage("tiny", stage)
        summary = {
            "variant": "tiny", "stage": stage, "dataset": f"tiny-{stage}", "samples": 5000, "samples_per_epoch": 5000,
            "epochs": chosen.epochs, "steps": steps, "parameters": 2_345_678, "ranks": 2, "final_loss": low + 0.05,
            "final_cross_entropy": low, "cross_entropy": {"by_source": by_source}, "settings": chosen.model_dump(),
        }  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))


def write_evaluation(root: Path, questions: int, first: str = "stage1") -> None:
    """Benchmarks, answers and scores, of the last checkpoint and that of `first`."""
    benchmarks: dict[str, Any] = {}
    answers = []
    levels = {"tiny stage2": 0.85, f"tiny {first}": 0.3, "grey picture": 0.4, "question-only prior": 0.45}
    for name in ("easy-vqa-test", "scenes-test"):
        rng = random.Random(name)
        folder = root / f"data/benchmarks/{name}"
        folder.mkdir(parents=True)
        rows = []
        with tarfile.open(folder / "images.tar", "w") as tar:
            for number in range(questions):
                image, colour, shape = picture(rng, 64 if name == "easy-vqa-test" else 96)
                place = add(tar, f"{number:05d}.png", image)
                kind = ("open", "yes_no", "choice")[number % (2 if name == "easy-vqa-test" else 3)]
                asked = {
                    "open": "What color is the shape?",
                    "yes_no": f"Is there a {shape}?",
                    "choice": "A red, B blue or C green?",
                }
                expected = {"open": colour, "yes_no": "yes", "choice": "B"}[kind]
                rows.append((f"q{number:05d}", f"i{number:05d}", asked[kind], expected, kind, "colour", *place))
                for system, level in levels.items():
                    said = (
                        expected if rng.random() < level else rng.choice(["red", "no", "A", "two small black squares"])
                    )
                    answers.append((name, system, *rows[-1][:6], said, said == expected))
        columns = ["question_id", "image_id", "question", "answer", "kind", "category", "image_offset", "image_size"]
        pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "questions.parquet")
        scored, margins = [], []
        kinds = ["all", "open", "yes_no"] + (["choice"] if name == "scenes-test" else [])
        for shift, group in zip((0.0, -0.02, 0.03, -0.05), kinds, strict=False):
            blind = {"all": 0.67, "open": 0.27, "yes_no": 0.76, "choice": 0.5}[group]
            for system, level in zip(levels, (0.854 + shift, 0.4 + shift, blind - 0.01, blind), strict=True):
                scored.append(
                    {
                        "system": system,
                        "group": group,
                        "n": 2000,
                        "accuracy": level,
                        "low": level - 0.02,
                        "high": level + 0.018,
                    }
                )
            gain = 0.854 + shift - blind if group != "choice" else 0.01
            margins.append(
                {
                    "group": group,
                    "baseline": "question-only prior",
                    "margin": gain,
                    "low": gain - 0.03,
                    "high": gain + 0.03,
                }
            )
        benchmarks[name] = {"questions": 2000, "pictures": 1000, "rows": scored, "margins": margins}
    folder = root / "results/tiny/evaluation"
    folder.mkdir(parents=True)
    columns = [
        "benchmark",
        "system",
        "question_id",
        "image_id",
        "question",
        "answer",
        "kind",
        "category",
        "prediction",
        "correct",
    ]
    pl.DataFrame(answers, schema=columns, orient="row").write_parquet(folder / "answers.parquet")
    weights = {
        path.name: file_sha256(path) for path in sorted((root / "checkpoints/tiny/stage2").glob("*.safetensors"))
    }
    scores = {
        "variant": "tiny",
        "confidence": 0.95,
        "checkpoints": {"stage2": weights, first: {}},
        "benchmarks": benchmarks,
    }
    (folder / "scores.json").write_text(json.dumps(scores))


class Answered:
    """The system whose answers stand in answers.parquet already."""

    name = "tiny stage2"

    def ask(self, *_: Any, **__: Any) -> dict[str, str]:
        """Nothing is asked again."""
        raise NotImplementedError

    def render(self, question: str, has_picture: bool) -> str:
        """Without a template."""
        return question


def write_columns(root: Path, settings: Settings) -> None:
    """What the evaluation writes for the gate, by its own code."""
    folder = root / "results/tiny/evaluation"
    answers = pl.read_parquet(folder / "answers.parquet")
    outcomes = {
        name: benchmark_outcome(settings, load_benchmark(name, None, 0, root), Answered(), answers)
        for name in ("easy-vqa-test", "scenes-test")
    }
    weights = weights_sha256(root / "checkpoints/tiny/stage2")
    write_outcomes(settings, "tiny", weights, outcomes, folder / "submissions", folder)


def finished_run(
    root: Path, *, samples: int = 24, questions: int = 40, scale: int = 1, adopted: bool = False
) -> tuple[Settings, Catalog]:
    """Writes the run into `root`, which must be the current folder, with its records; returns settings and catalog.

    `adopted`: stage 1.5 is a checkpoint that was made elsewhere.
    """
    # Its benchmarks have fewer questions than those of the project.
    params = (HERE / "params.yaml").read_text()
    for chosen in ("{questions: 2000}", "{questions: 1500}"):
        params = params.replace(chosen, "{questions: null}")
    if adopted:
        document = yaml.safe_load(params)
        document["variants"]["tiny"]["adopted"] = "stage1_5"
        params = yaml.safe_dump(document, sort_keys=False)
    (root / "params.yaml").write_text(params)
    (root / "LICENSE").write_text("the licence of the project\n")
    (root / "dvc.yaml").write_text(dvc_yaml(["stage2"], adopted="stage1_5" if adopted else None))
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    settings = load_settings(root / "params.yaml")
    if adopted:
        adopt(root, b"weights")
    write_training(root, settings, steps=300)
    for dataset in SOURCES:
        with record_stage(f"curate@{dataset}", root):
            write_dataset(root, dataset, samples, scale)
    with record_stage("train_stage2@tiny", root):
        write_checkpoint(root / "checkpoints/tiny/stage2")
    with record_stage("evaluate@tiny", root):
        write_evaluation(root, questions, "stage1_5" if adopted else "stage1")
        write_columns(root, settings)
    return settings, catalog()


def record_again(root: Path) -> None:
    """Records for the files as they are now, after a test has edited some."""
    for stage in (*(f"curate@{dataset}" for dataset in SOURCES), "train_stage2@tiny", "evaluate@tiny"):
        with record_stage(stage, root):
            pass
