"""Claims: 10,000 short-answer questions are answered in batches at three times the rate of one at a time, with the same
answers; and an evaluation that is killed again and again asks no question twice.

    python -m benchmarks.evaluate [--questions 10000] [--alone 600] [--kills 6] [--checkpoint FOLDER]

Without a checkpoint: the shape of `tiny` with random weights. Questions are short, over 64 pictures; answers up to 16
tokens. One at a time is measured on `--alone` of the same questions, drawn by a seed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")
SHAPES = ("circle", "square", "triangle", "rectangle")


def make_asks(count: int, seed: int) -> list[Any]:
    """Questions over 64 drawn pictures."""
    from fusion.evaluate.asking import Ask

    generator = random.Random(seed)
    pictures = []
    for _ in range(64):
        image = Image.new("RGB", (64, 64), generator.choice(COLOURS))
        image.paste(Image.new("RGB", (generator.randint(8, 40),) * 2, generator.choice(COLOURS)), (8, 8))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        pictures.append(buffer.getvalue())

    def text() -> str:
        kind = generator.randrange(3)
        if kind == 0:
            return f"Is there a {generator.choice(COLOURS)} {generator.choice(SHAPES)} in the image?"
        return "What colour is the shape?" if kind == 1 else f"How many {generator.choice(SHAPES)}s are in the picture?"

    def seen(picture: bytes) -> bytes:
        return picture

    return [Ask(f"{number:06d}", text(), partial(seen, generator.choice(pictures))) for number in range(count)]


def make_system(checkpoint: Path, batch_size: int) -> Any:
    """A checkpoint that answers."""
    from fusion.evaluate.systems import CheckpointSystem

    return CheckpointSystem("benchmark", checkpoint, batch_size, "cpu")


def random_checkpoint(folder: Path) -> Path:
    """`tiny` with random weights."""
    from fusion.settings import load_settings
    from fusion.train.base import build_base

    os.symlink(ROOT / "data", folder / "data")
    build_base(load_settings(ROOT / "params.yaml"), "tiny", folder)
    return folder / "checkpoints/tiny/base"


def rate(system: Any, asks: list[Any]) -> tuple[float, dict[str, str]]:
    """Questions a second, and the answers."""
    began = time.perf_counter()
    answers = system.ask(asks, 16, "benchmark", "")
    return len(asks) / (time.perf_counter() - began), answers


def throughput(checkpoint: Path, questions: int, alone: int, batch_size: int) -> dict[str, Any]:
    """Both rates and whether the answers are the same."""
    asks = make_asks(questions, 1)
    few = random.Random(2).sample(asks, min(alone, questions))
    batched, single = make_system(checkpoint, batch_size), make_system(checkpoint, 1)
    batched.ask(asks[:batch_size], 16, "warm-up", "")
    single.ask(asks[:4], 16, "warm-up", "")
    alone_rate, alone_answers = rate(single, few)
    batch_rate, batch_answers = rate(batched, asks)
    return {
        "questions": questions,
        "batch_size": batch_size,
        "questions_a_second": round(batch_rate, 1),
        "one_at_a_time": round(alone_rate, 1),
        "one_at_a_time_questions": len(few),
        "times": round(batch_rate / alone_rate, 2),
        "different_answers": sum(batch_answers[name] != answer for name, answer in alone_answers.items()),
    }


def child(folder: Path, checkpoint: Path, questions: int, batch_size: int) -> None:
    """Asks with a log, and notes each batch that was answered; killed from outside."""
    from fusion.evaluate.systems import CheckpointSystem

    system = CheckpointSystem("benchmark", checkpoint, batch_size, "cpu")
    inner = system._answer_batch

    def noted(asks: Any, max_new_tokens: int) -> list[str]:
        with (folder / "asked.txt").open("a") as file:
            file.write("".join(f"{ask.id}\n" for ask in asks))
        return inner(asks, max_new_tokens)

    system._answer_batch = noted  # type: ignore[method-assign]
    answers = system.ask(make_asks(questions, 1), 16, "benchmark", "", folder / "logs")
    (folder / "answers.json").write_text(json.dumps(answers, sort_keys=True))


def killed(checkpoint: Path, folder: Path, questions: int, kills: int, batch_size: int) -> dict[str, Any]:
    """Kills at random moments of the asking; then how often each question was asked, and whether answers are equal."""
    generator = random.Random(3)
    command = [sys.executable, "-m", "benchmarks.evaluate", "--child", str(folder), "--questions", str(questions)]
    command += ["--checkpoint", str(checkpoint), "--batch", str(batch_size)]
    done = 0
    while done < kills:
        before = _asked(folder)
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        # Killed after so many more batches, at any moment of the next.
        wanted = before + batch_size * generator.randint(1, max(1, questions // batch_size // (kills + 2)))
        while process.poll() is None and _asked(folder) < wanted:
            time.sleep(0.01)
        time.sleep(generator.random() * 0.2)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    times = Counter((folder / "asked.txt").read_text().split())
    _, undisturbed = rate(make_system(checkpoint, batch_size), make_asks(questions, 1))
    answers = json.loads((folder / "answers.json").read_text())
    return {
        "kills": done,
        "questions": questions,
        "asked_again_because_their_batch_was_cut": sum(count - 1 for count in times.values()),
        "at_most": done * batch_size,
        "same_answers": answers == undisturbed,
    }


def _asked(folder: Path) -> int:
    path = folder / "asked.txt"
    return len(path.read_text().split()) if path.is_file() else 0


def sound(result: dict[str, Any]) -> bool:
    """Whether the claims hold."""
    after = result["after_kills"]
    again = after["asked_again_because_their_batch_was_cut"]
    return bool(result["throughput"]["times"] >= 3.0 and after["same_answers"] and again <= after["at_most"])


def main() -> None:
    """Measures, prints, and writes results/evaluate.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--alone", type=int, default=600)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.checkpoint, options.questions, options.batch)
    from benchmarks.report import surroundings, write_result

    facts = surroundings()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = (options.checkpoint or random_checkpoint(folder)).resolve()
        asked = max(options.batch * 8, options.questions // 5)
        result = {
            "surroundings": facts,
            "throughput": throughput(checkpoint, options.questions, options.alone, options.batch),
            "after_kills": killed(checkpoint, folder, asked, options.kills, options.batch),
        }
    print(json.dumps(result, indent=2))
    if options.questions >= 10_000:
        print(write_result("evaluate", result))
    if not sound(result):
        sys.exit(1)


if __name__ == "__main__":
    main()
