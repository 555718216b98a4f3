"""Who answers: a trained checkpoint, the same checkpoint given a grey picture, and the question-only prior."""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from fusion.data.stream.loader import ShardReader
from fusion.data.stream.manifest import Manifest
from fusion.evaluate.benchmark import Benchmark
from fusion.evaluate.score import normalize
from fusion.model.checkpoints import load_checkpoint

MAX_NEW_TOKENS = 16
GREY = (128, 128, 128)


class CheckpointSystem:
    """Answers with a checkpoint, greedily and in batches, questions of similar length together."""

    def __init__(self, name: str, checkpoint: Path, batch_size: int, device: str) -> None:
        self.name = name
        self._model, self._processor = load_checkpoint(checkpoint, device=device)
        self._batch_size = batch_size
        self._device = device

    def answer(self, benchmark: Benchmark, *, grey: bool = False) -> list[str]:
        """One answer a question. With `grey` every picture is replaced by a grey one of the same size."""
        questions = benchmark.questions["question"].to_list()
        pictures = benchmark.pictures()
        order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
        answers = [""] * len(questions)
        label = f"{self.name}{', grey picture' if grey else ''}: {benchmark.name}"
        with tqdm(total=len(order), desc=label, unit="question", ascii=True, ncols=110, mininterval=10.0) as bar:
            for start in range(0, len(order), self._batch_size):
                chosen = order[start : start + self._batch_size]
                images = [greyed(pictures[index]) if grey else pictures[index] for index in chosen]
                for index, answer in zip(
                    chosen, self._answer_batch([questions[i] for i in chosen], images), strict=True
                ):
                    answers[index] = answer
                bar.update(len(chosen))
        return answers

    def _answer_batch(self, questions: Sequence[str], images: Sequence[bytes]) -> list[str]:
        prompts = [
            self._processor.encode_prompt([{"from": "human", "value": f"<image>\n{question}"}], image)
            for question, image in zip(questions, images, strict=True)
        ]
        batch = self._processor.collate(prompts).to(self._device)
        with torch.inference_mode():
            ids = self._model.generate_answers(batch, MAX_NEW_TOKENS)
        return self._processor.decode_answers(ids)


def greyed(picture: bytes) -> bytes:
    """A PNG of the same size, all mid-grey: what is left when there is nothing to see."""
    with Image.open(io.BytesIO(picture)) as image:
        size = image.size
    buffer = io.BytesIO()
    Image.new("RGB", size, GREY).save(buffer, "PNG")
    return buffer.getvalue()


class QuestionPrior:
    """The question-only prior: the most frequent training answer to the same question, else of all training answers."""

    def __init__(self, manifests: Sequence[Path], tokenizer: str, root: Path) -> None:
        self._answers: dict[str, Counter[str]] = defaultdict(Counter)
        everything: Counter[str] = Counter()
        for path in manifests:
            for question, answer in _training_turns(path, tokenizer, root):
                self._answers[question][answer] += 1
                everything[answer] += 1
        self._default = _most_frequent(everything)

    def answer(self, benchmark: Benchmark) -> list[str]:
        """One answer a question, pictures unseen."""
        keys = [_question_key(question) for question in benchmark.questions["question"]]
        return [_most_frequent(self._answers[key]) if key in self._answers else self._default for key in keys]


def _training_turns(manifest: Path, tokenizer: str, root: Path) -> Iterator[tuple[str, str]]:
    table = Manifest(manifest, tokenizer, root / "scratch" / "tables")
    reader = ShardReader(root)
    for rows in table.pieces():
        for place in table.places(rows):
            messages = reader.conversations(place)
            for question, answer in zip(messages[::2], messages[1::2], strict=True):
                yield _question_key(question["value"]), normalize(answer["value"])
    reader.close()


def _question_key(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("<image>", " ")).strip().lower()


def _most_frequent(counts: Counter[str]) -> str:
    """Ties go to the alphabetically first answer, so that the prior is the same in every run."""
    return min(counts, key=lambda answer: (-counts[answer], answer)) if counts else ""
