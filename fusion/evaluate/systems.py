"""Who answers: a trained checkpoint, the same checkpoint given a grey picture, and the question-only prior."""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from fusion.data.stream.loader import ShardReader
from fusion.data.stream.manifest import Manifest
from fusion.evaluate.asking import MAX_NEW_TOKENS, AnswerLog, Ask, ask_all
from fusion.evaluate.benchmark import Benchmark
from fusion.evaluate.records import weights_sha256
from fusion.evaluate.score import normalize
from fusion.hashing import file_sha256, json_sha256
from fusion.model.checkpoints import load_checkpoint
from fusion.model.template import Turn

GREY = (128, 128, 128)


class CheckpointSystem:
    """Answers with a checkpoint, greedily and in batches, questions of similar length together."""

    def __init__(self, name: str, checkpoint: Path, batch_size: int, device: str) -> None:
        self.name = name
        self._checkpoint = checkpoint
        self._model, self._processor = load_checkpoint(checkpoint, device=device)
        self._batch_size = batch_size
        self._device = device
        self._weights: dict[str, str] | None = None

    def answer(self, benchmark: Benchmark, *, grey: bool = False, logs: Path | None = None) -> list[str]:
        """One answer a question. With `grey` every picture is replaced by a grey one of the same size.

        With a folder for `logs`, what was answered before a kill is not asked again.
        """
        ids = benchmark.questions["question_id"].to_list()
        texts = benchmark.questions["question"].to_list()
        pictures = benchmark.pictures()

        def seen(index: int) -> bytes:
            return greyed(pictures[index]) if grey else pictures[index]

        asks = [Ask(str(ids[index]), text, partial(seen, index)) for index, text in enumerate(texts)]
        label = f"{self.name}{', grey picture' if grey else ''}: {benchmark.name}"
        content = [benchmark.name, grey, benchmark.questions.rows(), file_sha256(benchmark.images)]
        answers = self.ask(asks, MAX_NEW_TOKENS, label, content, logs)
        return [answers[str(name)] for name in ids]

    def ask(
        self, asks: Sequence[Ask], max_new_tokens: int, label: str, content: object, logs: Path | None = None
    ) -> dict[str, str]:
        """Answers by id. `content` is what the answers depend on besides weights, batch size, device and length."""
        batch = partial(self._answer_batch, max_new_tokens=max_new_tokens)
        if logs is None:
            return ask_all(asks, batch, self._batch_size, label)
        if self._weights is None:
            self._weights = weights_sha256(self._checkpoint)
        texts = [(one.id, one.text) for one in asks]
        key = json_sha256([self._weights, self._batch_size, self._device, max_new_tokens, texts, content])
        return ask_all(asks, batch, self._batch_size, label, AnswerLog(logs / f"{key[:24]}.jsonl"))

    def render(self, question: str, has_picture: bool) -> str:
        """The prompt in the model's template."""
        turn = Turn(question, None, has_image=has_picture)
        return str(self._processor.template.render([turn]))

    def _answer_batch(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        prompts = [
            self._processor.encode_prompt(
                [{"from": "human", "value": f"<image>\n{one.text}" if one.picture else one.text}],
                one.picture() if one.picture else None,
            )
            for one in asks
        ]
        batch = self._processor.collate(prompts).to(self._device)
        with torch.inference_mode():
            ids = self._model.generate_answers(batch, max_new_tokens)
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
