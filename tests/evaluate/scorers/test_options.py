"""Multiple choice: MMBench, CV-Bench, MMVP, ScienceQA, MMMU and those with plain letters."""

import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.evaluate.scorers.base import Question, ScoringError
from fusion.evaluate.scorers.known import scorer
from fusion.evaluate.scorers.letters import letter_of
from tests.evaluate.scorers import made
from tests.evaluate.scorers.made import points, read, score

OPTIONS = {"A": "a red car", "B": "a bus", "C": "car", "D": "none"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"), ("b", "B"), ("(C)", "C"), ("D.", "D"), ("B. a bus", "B"), ("B: bus", "B"), ("C) car", "C"),
        ("The answer is B", "B"), ("The answer is (B).", "B"), ("Answer: D", "D"), ("I think it is (A)", "A"),
        ("it must be C", "C"), ("a bus", "B"), ("It is a red car.", "A"), ("A bus is seen", "B"), ("", None),
        ("banana", None), ("E", None), ("(A) or (B)", None), ("a dog", None), ("the answer is a mystery", None),
        ("Apple", None), ("B\nbecause it is", "B"),
    ],
)  # fmt: skip
def test_which_option_an_answer_names(answer: str, letter: str | None) -> None:
    assert letter_of(answer, OPTIONS) == letter


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_named_option_is_one_of_the_options(answer: str) -> None:
    assert letter_of(answer, OPTIONS) in (None, *OPTIONS)


def test_mmbench_counts_a_question_only_if_all_turns_are_right(tmp_path: Path) -> None:
    folder = made.make_mmbench(tmp_path)
    # Question 7: two of three turns; question 8: both.
    found = points(score("mmbench", folder, ["A", "B", "A", "B", "(A)"]))
    assert (found["circular"], found["plain"]) == (50.0, 100.0)
    assert (found["circular things"], found["circular looks"]) == (0.0, 100.0)
    # An answer without an option is wrong, never a random letter: the same number every time.
    scored = score("mmbench", folder, ["A", "B", "C", "I do not know", "A"])
    assert points(scored)["circular"] == 50.0 and scored.unparsed == 0.2


def test_mmbench_reads_pictures_hints_and_options(tmp_path: Path) -> None:
    questions = read("mmbench", made.make_mmbench(tmp_path), "\nAnswer with a letter.")
    assert questions[0].prompt == (
        "Look closely. Which animal? There are several options:\nA. cat\nB. dog\nC. cow\nAnswer with a letter."
    )
    assert questions[3].prompt.startswith("Which colour?") and list(questions[3].options) == ["A", "B"]
    assert [question.cluster for question in questions] == ["7", "7", "7", "8", "8"]
    first, turned = questions[0].picture, questions[1].picture
    assert first is not None and turned is not None and first.read() == turned.read()


def test_mmbench_without_answers_makes_a_file_for_the_server(tmp_path: Path) -> None:
    folder = made.make_mmbench(tmp_path)
    questions = [
        Question(q.id, q.prompt, q.cluster, (), q.picture, group=q.group, options=q.options)
        for q in read("mmbench", folder)
    ]
    answers = dict.fromkeys((question.id for question in questions), "A <&> \x07")
    with pytest.raises(ScoringError, match="server"):
        scorer("mmbench").score(questions, answers)
    scored = score("mmbench", folder, ["A", "B", "C <b> & \x07", "B", "A"])
    first = scorer("mmbench").submission(scored.records, tmp_path)
    assert first is not None
    content = first.read_bytes()
    again = scorer("mmbench").submission(scored.records, tmp_path)
    assert again is not None and again.read_bytes() == content, "the same rows give the same bytes"
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    assert "C &lt;b&gt; &amp; " in sheet and "Which animal?" in sheet
    openpyxl = pytest.importorskip("openpyxl", reason="the extra `eval` is not installed: nothing here reads xlsx")
    table = list(openpyxl.load_workbook(first).active.values)
    assert table[0] == ("index", "question", "A", "B", "C", "D", "E", "prediction")
    assert [row[0] for row in table[1:]] == [7, 1_000_007, 2_000_007, 8, 1_000_008]
    assert [row[-1] for row in table[1:]] == ["A", "B", "C <b> & ", "B", "A"]


def test_mmbench_refuses_a_turn_without_its_question(tmp_path: Path) -> None:
    questions = read("mmbench", made.make_mmbench(tmp_path))[1:]
    with pytest.raises(ScoringError, match="first turn of 7"):
        scorer("mmbench").score(questions, {question.id: "A" for question in questions})


def test_cv_bench_weighs_the_sources_and_not_the_questions(tmp_path: Path) -> None:
    # ADE20K 3 of 4, COCO 1 of 2, Omni3D 0 of 2: half of (0.75 + 0.5) / 2, and nothing: 31.25. Micro: 4 of 8.
    answers = ["A", "(A)", "A. 1", "B", "A", "2", "B", "Apple"]
    found = points(score("cv_bench", made.make_cv_bench(tmp_path), answers))
    assert found == {"by_source": 31.25, "micro": 50.0, "ADE20K": 75.0, "COCO": 50.0, "Omni3D": 0.0}


def test_cv_bench_puts_the_instruction_before_and_needs_all_sources(tmp_path: Path) -> None:
    questions = read("cv_bench", made.make_cv_bench(tmp_path), "Reply with {}.\n")
    assert questions[0].prompt.startswith("Reply with A, B.\nHow many apples")
    rest = [question for question in questions if question.part != "Omni3D"]
    with pytest.raises(ScoringError, match="Omni3D"):
        scorer("cv_bench").score(rest, {question.id: "A" for question in rest})


def test_mmvp_single_and_pairs(tmp_path: Path) -> None:
    folder = made.make_mmvp(tmp_path)
    assert points(score("mmvp", folder, ["A", "(b)", "(a)", "A"])) == {"single": 75.0, "pair": 50.0}
    # The same letter for everything: half right, and no pair.
    assert points(score("mmvp", folder, ["A"] * 4)) == {"single": 50.0, "pair": 0.0}
    questions = read("mmvp", folder)
    assert questions[0].prompt == "Is the door open?\nA. Open\nB. Closed"
    with pytest.raises(ScoringError, match="of pair 0 one"):
        scorer("mmvp").score(questions[1:], {question.id: "A" for question in questions[1:]})


def test_science_qa_takes_the_test_questions_with_a_picture(tmp_path: Path) -> None:
    folder = made.make_science_qa(tmp_path)
    questions = read("science_qa", folder)
    assert [question.id for question in questions] == ["1", "3"]
    assert questions[0].prompt == "Context: Think.\nWhich is a metal?\nA. iron\nB. wood"
    found = points(score("science_qa", folder, ["a", "The answer is B."]))
    # lmms-eval takes a letter only: a sentence is wrong there.
    assert (found["accuracy"], found["lmms_accuracy"]) == (100.0, 50.0)
    scored = score("science_qa", folder, ["iron", "B. wood"])
    assert points(scored)["accuracy"] == 50.0 and scored.unparsed == 0.5


def test_mmmu_never_draws_a_letter(tmp_path: Path) -> None:
    folder = made.make_mmmu(tmp_path)
    questions = read("mmmu", folder, "Letter.\n---\nWord.")
    assert questions[0].prompt == "Who made ?\nA. Monet\nB. Manet\nC. Klee\n\nLetter."
    assert questions[1].prompt == "Area in ?\n\nWord." and [question.asked for question in questions][3] is False
    asked = [question.id for question in questions[:3]]
    grades = scorer("mmmu").score(questions, dict(zip(asked, ["no idea", "1234.5", "It is a Square"], strict=True)))
    assert [record.score for record in grades.records] == [0.0, 1.0, 1.0, 0.0]
    assert points(grades)["accuracy"] == 50.0 and points(grades)["one_picture"] == 66.6667
    assert grades.unparsed == 0.5, "the letter that is not there, and the question that could not be asked"


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), ("(B)", "B"), ("A or (B)", "B"), ("The answer is B.", "B"), ("first A then B then", "B"), ("D", None),
     ("I would say this was painted by Monet", "A"), ("Monet", None)],
)  # fmt: skip
def test_mmmu_choices(tmp_path: Path, answer: str, letter: str | None) -> None:
    assert scorer("mmmu").grade(read("mmmu", made.make_mmmu(tmp_path))[0], answer).parsed == letter


@pytest.mark.parametrize(
    ("answer", "right"),
    [("1,234.5", 1.0), ("The area is 1234.50", 1.0), ("x = 1234.499", 1.0), ("1234", 0.0), ("", 0.0), ("12345", 0.0)],
)
def test_mmmu_open_numbers(tmp_path: Path, answer: str, right: float) -> None:
    assert scorer("mmmu").grade(read("mmmu", made.make_mmmu(tmp_path))[1], answer).score == right


def test_plain_letters(tmp_path: Path) -> None:
    image = {"bytes": made.picture(tmp_path / "p.png"), "path": None}
    ai2d = [
        {"question": "What is at B?", "options": ["leaf", "root"], "answer": str(n), "image": image} for n in (0, 1, 1)
    ]
    made.write(tmp_path / "ai2d" / "test-0.parquet", ai2d)
    scored = score("ai2d", tmp_path / "ai2d", ["A", "b.", "the leaf"])
    assert points(scored) == {"accuracy": 66.6667}

    rwqa = [
        {"question": "Which way?\nA. Left\nB. Right\nReply with a letter.", "answer": "B", "image": image},
        {"question": "How many cars are there?", "answer": "2", "image": image},
    ]
    made.write(tmp_path / "rwqa" / "test-0.parquet", rwqa)
    assert points(score("realworldqa", tmp_path / "rwqa", ["Right", "2."])) == {"accuracy": 100.0}
    assert points(score("realworldqa", tmp_path / "rwqa", ["A", "12"])) == {"accuracy": 0.0}


def test_mmstar_of_all_questions_and_of_categories(tmp_path: Path) -> None:
    rows = [
        {"index": n, "question": "Which one?\nOptions: A: cat, B: dog, C: cow, D: hen", "answer": "B", "category": "x",
         "l2_category": part, "image": {"bytes": made.picture(tmp_path / "p.png"), "path": None}}
        for n, part in enumerate(["one", "one", "one", "two"])
    ]  # fmt: skip
    made.write(tmp_path / "val.parquet", rows)
    found = points(score("mmstar", tmp_path, ["B", "dog", "B", "A"]))
    assert (found["accuracy"], found["category_mean"]) == (75.0, 50.0)


def test_seed_image_leaves_videos_out(tmp_path: Path) -> None:
    row = {"question": "What?", "choice_a": "1", "choice_b": "2", "choice_c": "3", "choice_d": "4", "answer": "C"}
    rows = [
        {**row, "question_id": "1", "data_id": "1", "data_type": "image", "question_type_id": 1},
        {**row, "question_id": "2", "data_id": "2", "data_type": "video", "question_type_id": 10},
        {**row, "question_id": "3", "data_id": "1", "data_type": "image", "question_type_id": 2},
    ]
    made.write(tmp_path / "SEED-Bench.json", {"question_type": {}, "questions": rows})
    found = points(score("seed_image", tmp_path, ["C", "Clearly D."]))
    assert found["accuracy"] == 50.0


def test_mme_realworld(tmp_path: Path) -> None:
    row = {
        "Question_id": "m/1",
        "Image": "p.png",
        "Text": "What?",
        "Question Type": "x",
        "Category": "c",
        "Task": "Reasoning",
    }
    choices = ["(A) 1", "(B) 2", "(C) 3", "(D) 4", "(E) The image does not show it"]
    rows = [{**row, "Answer choices": choices, "Ground truth": "E"},
            {**row, "Question_id": "m/2", "Answer choices": choices, "Ground truth": "B"}]  # fmt: skip
    made.write(tmp_path / "MME_RealWorld.json", rows)
    scored = score("mme_realworld", tmp_path, ["E", "The best answer is: (B)"])
    assert points(scored)["accuracy"] == 100.0
    assert points(score("mme_realworld", tmp_path, ["", "C"]))["accuracy"] == 0.0


def test_math_vista(tmp_path: Path) -> None:
    row = {"question": "q", "image": "p.png", "unit": "", "metadata": {"task": "geometry"}, "choices": None}
    free = {**row, "question_type": "free_form", "precision": None}
    rows = {
        "1": {**row, "choices": ["4", "5"], "answer": "5", "question_type": "multi_choice", "answer_type": "text"},
        "2": {**free, "answer": "1.25", "answer_type": "float", "precision": 2},
        "3": {**free, "answer": "7", "answer_type": "integer"},
    }
    made.write(tmp_path / "testmini.json", rows)
    scored = score("math_vista", tmp_path, ["(B)", "So it is 1.2499", "seven"])
    assert points(scored)["accuracy"] == 66.6667 and scored.unparsed == pytest.approx(1 / 3)
