"""Short texts (VizWiz, TextVQA, ChartQA, DocVQA, OCRBench), judged ones (MM-Vet, LLaVA-Bench), and what goes wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.evaluate.scorers.base import ScoringError
from fusion.evaluate.scorers.judged import JudgedScorer
from fusion.evaluate.scorers.known import scorer
from fusion.evaluate.scorers.text_answers import anls, edit_distance, relaxed
from fusion.evaluate.scorers.vqa_text import vqa_text
from tests.evaluate.scorers import made
from tests.evaluate.scorers.made import points, read, score


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("The Blue, car!", "blue car"), ("two dogs", "2 dogs"), ("1,000", "1000"), ("it isnt", "it isn't"),
        ("yes/no", "yes no"), ("3.5 m.", "3.5 m"), ("dog's", "dog 's"), ("None", "0"), ("an", ""),
        ("hes there", "he's there"), ("x-b", "x b"), ("a - b", "b"),
    ],
)  # fmt: skip
def test_the_form_in_which_answers_are_compared(answer: str, form: str) -> None:
    assert vqa_text(answer) == form


@pytest.mark.parametrize("name", ["vizwiz", "textvqa"])
@pytest.mark.parametrize(
    ("answer", "share"),
    # blue: each of the five that said it sees four others (1), each of the other five sees five (1).
    # dark blue: seen by the three that said it twice (2/3), by seven thrice (1): (2 + 7) / 10.
    # navy: the one that said it sees none, nine see one (1/3): 3 / 10.
    [("Blue.", 100.0), ("the dark blue", 90.0), ("navy", 30.0), ("sky", 30.0), ("green", 0.0), ("", 0.0)],
)
def test_soft_accuracy(tmp_path: Path, name: str, answer: str, share: float) -> None:
    scored = score(name, made.make_vqa(tmp_path, name), [answer, "No"])
    assert points(scored)["accuracy"] == (share + 100.0) / 2
    assert scored.unparsed == (0.5 if not answer else 0.0)


def test_vizwiz_test_split_gives_a_file_and_no_number(tmp_path: Path) -> None:
    made.make_vqa(tmp_path, "vizwiz")
    rows = json.loads((tmp_path / "val.json").read_text())
    made.write(tmp_path / "val.json", [{key: row[key] for key in ("image", "question")} for row in rows])
    questions = read("vizwiz", tmp_path)
    with pytest.raises(ScoringError, match="only its server"):
        scorer("vizwiz").score(questions, {question.id: "x" for question in questions})


def test_files_for_servers(tmp_path: Path) -> None:
    wanted = {
        "vizwiz": [{"answer": "blue", "image": "0.jpg"}, {"answer": "no", "image": "1.jpg"}],
        "textvqa": [{"answer": "blue", "question_id": 10}, {"answer": "no", "question_id": 11}],
    }
    for name, rows in wanted.items():
        scored = score(name, made.make_vqa(tmp_path / name, name), ["The blue", "No."])
        path = scorer(name).submission(scored.records, tmp_path)
        assert path is not None and json.loads(path.read_text()) == rows


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("105", "100", True), ("94.9", "100", False), ("10%", "0.1", True), ("0", "0", True), ("0.0", "0", False),
        ("Yes", "yes", True), ("1,000", "1000", False), ("-3", "3", False), ("nan", "3", False),
    ],
)  # fmt: skip
def test_relaxed_accuracy(answer: str, expected: str, right: bool) -> None:
    assert relaxed(answer, expected) is right


def test_chartqa(tmp_path: Path) -> None:
    made.write(tmp_path / "test_human.json", [{"imgname": "1.png", "query": "How many?", "label": "20"}])
    made.write(
        tmp_path / "test_augmented.json",
        [{"imgname": "1.png", "query": "Which?", "label": "Spain"}, {"imgname": "2.png", "query": "?", "label": "3"}],
    )
    found = points(score("chartqa", tmp_path, ["21", "spain", "4"]))
    assert found == {"relaxed": 66.6667, "human": 100.0, "augmented": 50.0}


@pytest.mark.parametrize(
    ("answer", "expected", "share"),
    [
        ("main street", "Main  Street", 1.0),
        ("maine", "main", 0.8),
        ("ma", "main", 0.5),
        ("m", "main", 0.0),
        ("", "x", 0.0),
    ],
)
def test_anls(answer: str, expected: str, share: float) -> None:
    assert anls(answer, expected) == pytest.approx(share)


@settings(deadline=None)
@given(st.text(max_size=12), st.text(max_size=12))
def test_edit_distance_is_a_distance(a: str, b: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) <= max(len(a), len(b))
    assert (edit_distance(a, b) == 0) == (a == b)


def test_docvqa_takes_the_nearest_answer(tmp_path: Path) -> None:
    rows = [
        {"questionId": 1, "question": "Who?", "image": "documents/a_1.png", "docId": 5, "answers": ["J. Doe", "Doe"]},
        {"questionId": 2, "question": "When?", "image": "documents/a_1.png", "docId": 5, "answers": ["1999"]},
    ]
    made.write(tmp_path / "val_v1.0_withQT.json", {"dataset_name": "docvqa", "dataset_split": "val", "data": rows})
    scored = score("docvqa", tmp_path, ["doe", "1989"])
    assert points(scored)["anls"] == pytest.approx(87.5)
    assert {record.cluster for record in scored.records} == {"5"}


def test_ocrbench_points(tmp_path: Path) -> None:
    row = {"image_path": "a.png", "question": "what is written in the image?"}
    made.write(tmp_path / "OCRBench.json", [
        {**row, "dataset_name": "IIIT5K", "id": 0, "type": "Regular Text Recognition", "answers": ["EXIT"]},
        {**row, "dataset_name": "HME100k", "id": 1, "type": "Handwritten", "answers": "x ^ 2"},
        {**row, "dataset_name": "FUNSD", "id": 2, "type": "Key Information Extraction", "answers": ["12/3"]},
        {**row, "dataset_name": "ReST", "id": 3, "type": "Regular Text Recognition", "answers": ["ABC"]},
    ])  # fmt: skip
    found = points(score("ocrbench", tmp_path, ["The sign says exit", "x^2+1", "12-3", "\uff21\uff22\uff23"]))
    assert found["score"] == 75.0 and found["Key Information Extraction"] == 0.0


def judge_of(name: str) -> JudgedScorer:
    found = scorer(name)
    assert isinstance(found, JudgedScorer)
    return found


@pytest.mark.parametrize(
    ("words", "grade"),
    [("0.5", 0.5), ("1.0", 1.0), (" 0 ", 0.0), ("1", 1.0), ("0.5 because", None), ("", None), ("5", None),
     ("1.5", None), ("Correctness: 0.5", None), ("nan", None), ("-1", None)],
)  # fmt: skip
def test_mm_vet_reads_its_judge_strictly(words: str, grade: float | None) -> None:
    found = judge_of("mm_vet").verdict(words)
    assert (found["score"] if found else None) == grade


@pytest.mark.parametrize(
    ("words", "grades"),
    [("8 6", (8.0, 6.0)), ("9, 10", (9.0, 10.0)), ("8 6\nThe first is better.", (8.0, 6.0)), ("8", None),
     ("-1 -1", None), ("0 5", None), ("11 5", None), ("I cannot", None)],
)  # fmt: skip
def test_llava_wild_reads_its_judge_strictly(words: str, grades: tuple[float, float] | None) -> None:
    found = judge_of("llava_wild").verdict(words)
    assert ((found["reference"], found["score"]) if found else None) == grades


def test_judged_numbers_by_hand(tmp_path: Path) -> None:
    questions = read("mm_vet", made.make_mm_vet(tmp_path / "vet"))
    vet = judge_of("mm_vet")
    records = [
        made_record(vet, question, words) for question, words in zip(questions, ["1.0", "0.5", "0.0"], strict=True)
    ]
    assert {name: value.point for name, value in vet.values(records).items()} == {
        "score": 50.0, "math": 50.0, "ocr+rec": 50.0,
    }  # fmt: skip
    path = vet.submission(records, tmp_path)
    assert path is not None and json.loads(path.read_text()) == {"v1_0": "x", "v1_1": "x", "v1_2": "x"}

    wild = judge_of("llava_wild")
    questions = read("llava_wild", made.make_llava_wild(tmp_path / "wild"))
    records = [made_record(wild, question, words) for question, words in zip(questions, ["8 6", "10 3"], strict=True)]
    assert wild.values(records)["relative"].point == 50.0 and wild.values(records)["complex"].point == 30.0
    assert "A red square." in wild.prompt(questions[0], "x")


def made_record(judge: JudgedScorer, question: object, words: str) -> object:
    from fusion.evaluate.scorers.base import Question, Record

    assert isinstance(question, Question)
    return Record(question, "x", judge.judged(question, "x", words))


def test_a_judged_answer_gets_no_grade_without_a_judge(tmp_path: Path) -> None:
    questions = read("mm_vet", made.make_mm_vet(tmp_path))
    with pytest.raises(ScoringError, match="needs a judge"):
        scorer("mm_vet").score(questions, {question.id: "x" for question in questions})
    with pytest.raises(ScoringError, match="cannot be read"):
        judge_of("mm_vet").judged(questions[0], "x", "very good")


def test_answers_must_fit_the_questions(tmp_path: Path) -> None:
    questions = read("mmvp", made.make_mmvp(tmp_path))
    with pytest.raises(ScoringError, match=r"4 answers are missing \(1, 2, 3, 4\)"):
        scorer("mmvp").score(questions, {})
    with pytest.raises(ScoringError, match=r"1 belong to no question \(99\)"):
        scorer("mmvp").score(questions, {question.id: "A" for question in questions} | {"99": "A"})
    with pytest.raises(ScoringError, match="stands there twice"):
        scorer("mmvp").score(questions + questions[:1], {question.id: "A" for question in questions})
    with pytest.raises(ScoringError, match="there is no question"):
        scorer("mmvp").score([], {})


def test_a_picture_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    made.make_vqa(tmp_path, "vizwiz")
    rows = json.loads((tmp_path / "val.json").read_text())
    rows[0]["image"] = "../../../etc/passwd"
    made.write(tmp_path / "val.json", rows)
    with pytest.raises(ScoringError, match="lies outside"):
        read("vizwiz", tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_broken_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "mm-vet.json").write_text(text)
    with pytest.raises((ScoringError, AttributeError), match=r"mm-vet|JSON|list"):
        read("mm_vet", tmp_path)
