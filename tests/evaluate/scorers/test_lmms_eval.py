"""Our numbers beside those of the real lmms-eval, on the same questions and answers, where definitions are the same.

Runs where the extra `eval` is installed (docs/evaluation.md says how); skipped elsewhere.
"""

import importlib
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("lmms_eval", reason="the extra `eval` is not installed: nothing to compare with")

from fusion.evaluate.columns.entries import load_columns
from fusion.evaluate.scorers.base import Question
from fusion.evaluate.scorers.known import scorer
from fusion.evaluate.scorers.text_answers import anls
from fusion.evaluate.scorers.vqa_text import vqa_text
from tests.evaluate.scorers import made
from tests.evaluate.scorers.made import points, read

DRAWS = 40


def utils(task: str, module: str = "utils") -> Any:
    """A task's functions."""
    return importlib.import_module(f"lmms_eval.tasks.{task}.{module}")


def drawn(questions: list[Question], choices: list[str], seed: int) -> dict[str, str]:
    """Seeded answers out of `choices`, half of them right."""
    generator = random.Random(seed)
    return {
        q.id: q.expected[0] if generator.random() < 0.5 else generator.choice(choices) for q in questions if q.asked
    }


def ours(name: str, questions: list[Question], answers: dict[str, str]) -> dict[str, float]:
    """Our numbers."""
    return points(scorer(name).score(questions, answers))


WORDS = [
    "blue", "the", "a", "two", "none", "1,000", "3.5", "dog's", "isnt", "hes", "couldntve", "shouldn'tve", "y'allll",
    "yall'd've", "somebody'd", "Yes!", "no.", "x-y", "(a)", "a/b", "@", "what?", "oclock", "Id've", "its", "let's", ",",
]  # fmt: skip


def test_the_form_of_vqa_answers() -> None:
    processor = importlib.import_module("lmms_eval.tasks._task_utils.vqa_eval_metric").EvalAIAnswerProcessor()
    for word in [*processor.CONTRACTIONS, *processor.NUMBER_MAP, *WORDS]:
        assert vqa_text(word) == processor(word), word
    generator = random.Random(1)
    for _ in range(2000):
        text = " ".join(generator.choices(WORDS, k=generator.randint(0, 5)))
        assert vqa_text(text) == processor(text), text


@pytest.mark.parametrize(("name", "task"), [("vizwiz", "vizwiz_vqa"), ("textvqa", "textvqa")])
def test_soft_vqa(tmp_path: Path, name: str, task: str) -> None:
    module, questions = utils(task), read(name, made.make_vqa(tmp_path, name))
    process = getattr(module, f"{task}_process_results")
    for seed in range(DRAWS):
        answers = drawn(questions, ["Blue.", "dark blue", "sky", "navy", "", "No!"], seed)
        theirs = [
            process({"question_id": q.id, "answers": list(q.expected)}, [answers[q.id]])["exact_match"]
            for q in questions
        ]
        assert ours(name, questions, answers)["accuracy"] == pytest.approx(50 * sum(theirs), abs=1e-3)


def test_pope(tmp_path: Path) -> None:
    module, questions = utils("pope"), read("pope", made.make_pope(tmp_path))
    for seed in range(DRAWS):
        answers = drawn(questions, ["yes", "no", "Yes", "No, none", "maybe"], seed)
        rows = [
            module.pope_process_results({"answer": q.expected[0], "question_id": q.id}, [answers[q.id]])
            for q in questions
        ]
        found = ours("pope", questions, answers)
        assert found["lmms_accuracy"] == pytest.approx(
            100 * module.pope_aggregate_accuracy([row["pope_accuracy"] for row in rows]), abs=1e-3
        )
        assert found["lmms_f1"] == pytest.approx(
            100 * module.pope_aggregate_f1_score([row["pope_f1_score"] for row in rows]), abs=1e-3
        )


def test_pope_f1_of_wrong_answers_may_be_one(tmp_path: Path) -> None:
    """The trap: two wrong answers of six, and lmms-eval's F1 is 1.0."""
    module = utils("pope")
    rows = [("yes", "yes"), ("yes", "yes"), ("no", "no"), ("no", "no"), ("yes", "a dog"), ("no", "cannot tell")]
    results = [
        module.pope_process_results({"answer": truth, "question_id": n}, [said]) for n, (truth, said) in enumerate(rows)
    ]
    assert module.pope_aggregate_f1_score([row["pope_f1_score"] for row in results]) == 1.0


def test_mme(tmp_path: Path) -> None:
    module, questions = utils("mme"), read("mme", made.make_mme(tmp_path))
    for seed in range(DRAWS):
        answers = drawn(questions, ["Yes.", "no", "n", "know", "It is so", "Yesterday"], seed)
        results: dict[str, list[Any]] = {"mme_perception_score": [], "mme_cognition_score": []}
        for question in questions:
            doc = {"answer": question.expected[0], "question_id": question.group, "category": question.part}
            for key, row in module.mme_process_results(doc, [answers[question.id]]).items():
                results[key].append(row)
        found = ours("mme", questions, answers)
        assert found["perception"] == pytest.approx(module.mme_aggregate_results(results["mme_perception_score"]))
        assert found["cognition"] == pytest.approx(module.mme_aggregate_results(results["mme_cognition_score"]))


def test_mmbench(tmp_path: Path) -> None:
    evaluator = utils("mmbench", "mmbench_evals").MMBench_Evaluator()
    questions = read("mmbench", made.make_mmbench(tmp_path))
    for seed in range(DRAWS):
        answers = drawn(questions, ["A", "B.", "(C)", "C"], seed)
        rows = [
            {"index": int(q.id), "question": "x", "answer": q.expected[0], "prediction": answers[q.id], "category": "c",
             "L2-category": q.part, **{letter: q.options.get(letter, float("nan")) for letter in "ABCDE"}}
            for q in questions
        ]  # fmt: skip
        overall, _, _ = evaluator.eval_result(rows, eval_method="static")
        assert ours("mmbench", questions, answers)["circular"] == pytest.approx(100 * overall)


def test_cv_bench(tmp_path: Path) -> None:
    module, questions = utils("cv_bench"), read("cv_bench", made.make_cv_bench(tmp_path))
    for seed in range(DRAWS):
        answers = drawn(questions, ["A", "(B)", "B. 2", "(A)"], seed)
        rows = [
            module.cv_bench_process_results(
                {"answer": f"({q.expected[0]})", "idx": q.id, "type": "", "task": "", "source": q.part}, [answers[q.id]]
            )["cv_bench_acc"]
            for q in questions
        ]
        found = ours("cv_bench", questions, answers)
        assert found["micro"] == pytest.approx(100 * module.cv_bench_aggregate_results(rows), abs=1e-3)
        assert found["by_source"] == pytest.approx(100 * module.cv_bench_default_aggregate_results(rows), abs=1e-3)


def test_mmvp(tmp_path: Path) -> None:
    module, questions = utils("mmvp"), read("mmvp", made.make_mmvp(tmp_path))
    for seed in range(DRAWS):
        answers = drawn(questions, ["A", "(b)", "B. Closed", "The answer is A"], seed)
        docs = {q.id: {"Index": int(q.id), "Correct Answer": f"({q.expected[0].lower()})"} for q in questions}
        rows = [module.mmvp_process_results(docs[q.id], [answers[q.id]]) for q in questions]
        found = ours("mmvp", questions, answers)
        assert found["single"] == pytest.approx(100 * module.mmvp_aggregate_results([r["mmvp_accuracy"] for r in rows]))
        pairs = module.mmvp_aggregate_pair_results([row["mmvp_pair_accuracy"] for row in rows])
        assert found["pair"] == pytest.approx(100 * pairs)


def test_science_qa(tmp_path: Path) -> None:
    module, questions = utils("scienceqa"), read("science_qa", made.make_science_qa(tmp_path))
    for seed in range(DRAWS):
        answers = drawn(questions, ["a", "B", "B. wood", "iron", "The answer is A."], seed)
        docs = {q.id: {"choices": ["iron", "wood"], "answer": "AB".index(q.expected[0])} for q in questions}
        theirs = [module.sqa_process_results(docs[q.id], [answers[q.id]]) for q in questions]
        mean = sum(row["exact_match"] for row in theirs) / len(theirs)
        assert ours("science_qa", questions, answers)["lmms_accuracy"] == pytest.approx(100 * mean)


def test_mmmu_where_an_option_is_named(tmp_path: Path) -> None:
    module = utils("mmmu")
    questions = [question for question in read("mmmu", made.make_mmmu(tmp_path)) if question.asked]
    said = {
        "validation_Art_1": ["A", "(B)", "Answer: C", "A or (B)", "This picture was painted by Klee", "B."],
        "validation_Math_1": ["1,234.5", "It is 1234.5 cm", "x = 12", "so the area is 1234.50", "1e3", "many"],
        "validation_Math_2": ["square", "a circle", "It is a Quadrate.", "The answer is square", "3", "s"],
    }
    docs = {
        "validation_Art_1": {
            "question_type": "multiple-choice",
            "options": "['Monet', 'Manet', 'Klee']",
            "answer": "B",
        },
        "validation_Math_1": {"question_type": "open", "options": "[]", "answer": "1,234.5"},
        "validation_Math_2": {"question_type": "open", "options": "[]", "answer": ["square", "quadrate"]},
    }
    for number in range(6):
        answers = {question.id: said[question.id][number] for question in questions}
        rows = [
            module.mmmu_process_results({"id": name, **docs[name]}, [answer])["mmmu_acc"]
            for name, answer in answers.items()
        ]
        assert ours("mmmu", questions, answers)["accuracy"] == pytest.approx(
            100 * module.mmmu_aggregate_results(rows), abs=1e-2
        )


def test_hallusion_bench_by_the_rule_without_a_judge(tmp_path: Path) -> None:
    module, questions = utils("hallusion_bench", "evaluate_hb"), read("hallusion_bench", made.make_hallusion(tmp_path))
    for seed in range(DRAWS):
        answers = drawn(questions, ["Yes.", "no", "eyes", "unclear"], seed)
        rows = []
        for question in questions:
            keys = ("category", "subcategory", "set_id", "figure_id", "question_id")
            place = dict(zip(keys, question.id.split("/"), strict=True))
            truth = "1" if question.expected == ("yes",) else "0"
            rows.append({**place, "gt_answer": truth, "model_prediction": answers[question.id]})
        found = ours("hallusion_bench", questions, answers)
        for name in ("aAcc", "fAcc", "qAcc"):
            theirs = 100 * module.hb_aggregation_result_intern(rows, name)
            assert found[f"holds_yes_{name}"] == pytest.approx(theirs, abs=1e-3)


def test_short_texts() -> None:
    relaxed = utils("chartqa").relaxed_correctness
    from fusion.evaluate.scorers.text_answers import relaxed as own_relaxed

    texts = [
        "",
        "0",
        "0.0",
        "10",
        "10.4",
        "10.6",
        "10%",
        "0.1",
        "-3",
        "Yes",
        "yes",
        "1,000",
        "nan",
        "inf",
        "3e2",
        "300",
    ]
    for given in texts:
        for wanted in texts:
            assert own_relaxed(given, wanted) == bool(relaxed(given, wanted)), (given, wanted)

    theirs = importlib.import_module("lmms_eval.api.metrics").anls
    names = ["Main  street", "main street ", "maine", "m", "1999", "J. Doe", "doe", "ß"]
    for given in names:
        for wanted in names:
            assert anls(given, wanted) == pytest.approx(theirs([wanted], [given])["anls"]), (given, wanted)

    ocr = utils("ocrbench").ocrbench_process_results
    own = scorer("ocrbench")
    for kind in ("IIIT5K", "HME100k"):
        for given in ["EXIT", "the exit", "x ^ 2", "x^2", "X^2", "\uff25\uff38\uff29\uff34", "a\nb"]:
            for wanted in ["exit", "x^2", "a b"]:
                doc = {"answer": [wanted], "dataset": kind, "question_type": "Digit String Recognition"}
                score = ocr(doc, [given])["ocrbench_accuracy"]["score"]
                assert own.grade(Question("1", "", "1", (wanted,), kind=kind), given).score == score, (given, wanted)


def test_mmstar_by_category() -> None:
    module, own = utils("mmstar"), scorer("mmstar")
    options = dict.fromkeys("ABCD", "")
    questions = [Question(str(n), "", str(n), ("ABCD"[n % 4],), part=f"p{n % 3}", options=options) for n in range(20)]
    for seed in range(DRAWS):
        answers = drawn(questions, ["A", "B.", "(C)", "D"], seed)
        rows = [
            module.mmstar_process_results(
                {"answer": q.expected[0], "category": "c", "l2_category": q.part, "index": q.id}, [answers[q.id]]
            )["average"]
            for q in questions
        ]
        found = points(own.score(questions, answers))
        assert found["category_mean"] == pytest.approx(100 * module.mmstar_aggregate_results(rows), abs=1e-3)


def test_columns_name_tasks_keys_data_and_instructions_that_are_there() -> None:
    """What our entries say of lmms-eval is what its own task files say."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    folder = Path(str(importlib.import_module("lmms_eval.tasks").__file__)).parent
    tasks: dict[str, dict[str, Any]] = {}
    for path in folder.rglob("*.yaml"):
        try:
            document = yaml.load(path.read_text(encoding="utf-8"), Loader)
        except yaml.YAMLError:
            continue
        if isinstance(document, dict) and isinstance(document.get("task"), str):
            included = document.get("include")
            if included and (path.parent / included).is_file():
                document = yaml.load((path.parent / included).read_text(encoding="utf-8"), Loader) | document
            tasks[document["task"]] = document
    for column in load_columns().values():
        task = tasks[column.engine.task]
        keys = {metric["metric"] for metric in task["metric_list"]}
        assert set(column.engine.keys) <= keys, column.column
        assert (task["dataset_path"], task["test_split"]) == (column.data.repo, column.data.split), column.column
        assert task.get("dataset_name") == column.data.subset, column.column
        asked = task.get("lmms_eval_specific_kwargs", {}).get("default", {}).get("post_prompt")
        if asked and column.column not in ("MME-RW", "VizWiz"):
            assert column.instruction == asked, column.column
