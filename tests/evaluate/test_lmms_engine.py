"""The engine lmms-eval: what it says is read with distrust, and through the real one the scores are the same."""

import json
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fusion.evaluate.lmms.engine import LmmsError, read_result, require_lmms, run_task

MISSING = find_spec("lmms_eval") is None
NEEDED = pytest.mark.skipif(MISSING, reason="the extra `eval` is not installed (docs/evaluation.md)")


def answer(results: dict[str, Any], samples: int = 2) -> str:
    """What the process writes."""
    return json.dumps({"results": results, "samples": [{"id": n} for n in range(samples)], "version": "0.7.3"})


def test_a_result_is_read_by_its_key() -> None:
    found = read_result(answer({"pope_f1_score,none": 0.8, "pope_f1_stderr,none": 0.1}), "pope", ["pope_f1_score"], 2)
    assert found.values == {"pope_f1_score": 0.8} and len(found.samples) == 2


@pytest.mark.parametrize(
    ("results", "samples", "message"),
    [
        ({}, 2, "no key `f1`; it gave nothing"),
        ({"acc,none": 1.0}, 2, "no key `f1`; it gave acc"),
        ({"f1,none": float("nan")}, 2, "f1 is nan, no number"),
        ({"f1,none": True}, 2, "f1 is True, no number"),
        ({"f1,none": 1.0}, 3, "3 questions, and there must be 2"),
        ({"f1,none": 1.0}, 0, "0 questions"),
    ],
)
def test_what_is_no_result_is_an_error(results: dict[str, Any], samples: int, message: str) -> None:
    with pytest.raises(LmmsError, match=message):
        read_result(answer(results, samples), "task", ["f1"], 2)


@pytest.mark.skipif(not MISSING, reason="lmms-eval is installed here")
def test_without_the_extra_it_says_how_to_install_it() -> None:
    with pytest.raises(LmmsError, match=r"not installed \(extra `eval`\)(.|\n)*torchvision"):
        require_lmms()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights."""
    from fusion.model.checkpoints import save_checkpoint
    from tests.model.tiny import shared

    folder = tmp_path_factory.mktemp("lmms") / "checkpoint"
    save_checkpoint(*shared(), folder)
    return folder


class Requests:
    """Requests of lmms-eval over one task's documents."""

    def __init__(self, docs: list[dict[str, Any]]) -> None:
        self.docs = docs

    def make(self, model: Any, **options: Any) -> list[Any]:
        """One for each document, with its text, its pictures and the same options."""
        model.task_dict["task"] = {"test": self.docs}
        return [
            Namespace(args=(doc["text"], options, lambda found: found["pictures"], number, "task", "test"))
            for number, doc in enumerate(self.docs)
        ]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    if MISSING:
        pytest.skip("the extra `eval` is not installed (docs/evaluation.md)")
    from fusion.evaluate.lmms.model import FusionLmms

    return FusionLmms(str(checkpoint), device="cpu", batch_size=3)


def questions() -> list[dict[str, Any]]:
    from tests.model.tiny import picture

    return [
        {"text": "what is it", "pictures": [picture(1)]}, {"text": "a cat", "pictures": []},
        {"text": "is it red or blue", "pictures": [picture(2)]}, {"text": "why", "pictures": None},
        {"text": "what", "pictures": [picture(3)]},
    ]  # fmt: skip


@NEEDED
def test_answers_are_those_of_the_model_in_the_order_of_the_requests(model: Any) -> None:
    from tests.model.tiny import shared

    network, processor = shared()
    docs = questions()
    found = model.generate_until(Requests(docs).make(model, max_new_tokens=6, temperature=0, do_sample=False))
    for doc, text in zip(docs, found, strict=True):
        picture = (doc["pictures"] or [None])[0]
        value = f"<image>\n{doc['text']}" if picture is not None else doc["text"]
        batch = processor.collate([processor.encode_prompt([{"from": "human", "value": value}], picture)])
        assert text == processor.decode_answers(network.generate_answers(batch, 6))[0]
    assert any(found)


@NEEDED
def test_until_cuts_answers(model: Any) -> None:
    whole = model.generate_until(Requests(questions()).make(model, max_new_tokens=6))
    word = next(text for text in whole if text)[1:3]
    cut = model.generate_until(Requests(questions()).make(model, max_new_tokens=6, until=[word]))
    assert cut == [text.split(word)[0] for text in whole] and cut != whole


@NEEDED
def test_several_pictures_and_unknown_options_are_errors(model: Any) -> None:
    from fusion.evaluate.lmms.model import FusionLmms
    from tests.model.tiny import picture

    docs = [{"text": "what", "pictures": [picture(1), picture(2)]}]
    with pytest.raises(ValueError, match="task, question 0: 2 pictures"):
        model.generate_until(Requests(docs).make(model, max_new_tokens=2))
    with pytest.raises(ValueError, match="length_penalty: not understood"):
        model.generate_until(Requests(questions()).make(model, length_penalty=2.0))
    with pytest.raises(ValueError, match="quantize: not understood"):
        FusionLmms("nowhere", quantize=True)


@NEEDED
def test_log_likelihoods(model: Any) -> None:
    """Of what the model would say, greedy is true; the sum over all first tokens is a distribution."""
    docs = questions()
    said = model.generate_until(Requests(docs).make(model, max_new_tokens=1))
    model.task_dict["task"] = {"test": docs}
    asked = [
        Namespace(args=(doc["text"], target, lambda found: found["pictures"], number, "task", "test"))
        for number, (doc, text) in enumerate(zip(docs, said, strict=True))
        for target in (text or "cat", "zebra")
    ]
    found = model.loglikelihood(asked)
    assert all(score < 0 for score, _ in found)
    for (own, greedy), (other, _), text in zip(found[::2], found[1::2], said, strict=True):
        assert not text or (greedy and own >= other)


@NEEDED
def test_rounds_end_when_the_task_says_so(model: Any) -> None:
    docs = questions()[:1]
    model.task_dict["task"] = {"test": docs}
    seen: list[Any] = []

    def to_text(doc: Any, previous_output: Any, round_idx: int, previous_round_info: Any) -> Any:
        seen.append((list(previous_output), round_idx, previous_round_info))
        return doc["pictures"], "and now", round_idx == 3, previous_output, round_idx

    request = Namespace(args=("what", {"max_new_tokens": 2}, lambda doc: doc["pictures"], to_text, 0, "task", "test"))
    (rounds,) = model.generate_until_multi_round([request])
    assert len(rounds) == 3 and [step[1:] for step in seen] == [(1, None), (2, 1), (3, 2)]
    assert seen[-1][0] == rounds


@NEEDED
@pytest.mark.long
def test_an_embedded_benchmark_has_the_same_score_through_the_real_lmms_eval(checkpoint: Path, tmp_path: Path) -> None:
    from fusion.evaluate.benchmark import load_benchmark
    from fusion.evaluate.lmms.embedded import KEY, write_task
    from fusion.evaluate.score import is_correct
    from fusion.evaluate.systems import CheckpointSystem
    from tests.evaluate.project import BENCHMARK, Project

    project = Project(tmp_path / "project")
    benchmark = load_benchmark(BENCHMARK, None, 0, project.root)
    answers = CheckpointSystem("tiny", checkpoint, 8, "cpu").answer(benchmark)
    # Half of the questions are right by construction: the expected answer is what the model says.
    table = benchmark.questions
    expected = [said if number % 2 and said else "nothing" for number, said in enumerate(answers)]
    from dataclasses import replace

    import polars as pl

    benchmark = replace(benchmark, questions=table.with_columns(answer=pl.Series(expected)))
    score = sum(map(is_correct, answers, expected)) / len(answers)
    task = write_task(benchmark, tmp_path / "task")
    options: dict[str, Any] = {"device": "cpu", "batch_size": 8, "include": tmp_path / "task", "offline": True}
    found = run_task(checkpoint, task, [KEY], len(answers), **options)
    assert found.values[KEY] == pytest.approx(score)
    assert [sample["answer"] for sample in found.samples] == answers
    with pytest.raises(LmmsError, match="no key `acc`"):
        run_task(checkpoint, task, ["acc"], None, limit=2, **options)
    with pytest.raises(LmmsError, match="lmms-eval has no task `popes`"):
        run_task(checkpoint, "popes", ["acc"], None, limit=2, **options)
    (tmp_path / "task" / f"{task}.parquet").unlink()
    with pytest.raises(LmmsError, match="exit code 1"):
        run_task(checkpoint, task, [KEY], None, limit=2, **options)
