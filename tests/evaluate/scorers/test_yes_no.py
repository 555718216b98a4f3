"""POPE, MME, HallusionBench: numbers made by hand, and the traps of each."""

from pathlib import Path

import pytest

from fusion.evaluate.scorers.base import ScoringError
from fusion.evaluate.scorers.known import scorer
from tests.evaluate.scorers.made import make_hallusion, make_mme, make_pope, points, read, score


def test_pope_is_the_mean_of_three_f1s(tmp_path: Path) -> None:
    # random: all right, F1 1. popular: the first no is called yes: TP 2, FP 1: 4/5. adversarial: all no: F1 0.
    answers = ["yes", "no", "yes", "no", "yes", "yes", "yes", "no", "no", "no", "no", "no"]
    found = points(score("pope", make_pope(tmp_path), answers))
    assert (found["f1_random"], found["f1_popular"], found["f1_adversarial"]) == (100.0, 80.0, 0.0)
    assert found["f1_mean"] == 60.0
    # Over all: TP 4, FP 1, FN 2: 8/11. Accuracy 9 of 12. Yes 5 of 12.
    assert (found["f1"], found["accuracy"], found["yes_share"]) == (72.7273, 75.0, 41.6667)
    assert (found["lmms_f1"], found["lmms_accuracy"]) == (72.7273, 75.0)


def test_pope_words_other_than_yes_and_no_do_not_drop_out(tmp_path: Path) -> None:
    # Of each split one yes is answered by "I see none" (no word that counts: taken for a yes) and one no by "maybe".
    scored = score("pope", make_pope(tmp_path), ["yes", "maybe", "perhaps", "no"] * 3)
    found = points(scored)
    assert found["f1_mean"] == 80.0 and scored.unparsed == 0.5
    # lmms-eval: both drop out, what is left is all right, and the number says 100.
    assert (found["lmms_f1"], found["lmms_accuracy"]) == (100.0, 50.0)


@pytest.mark.parametrize(
    ("answer", "parsed", "right"),
    [
        ("No, there is not.", "no", 1.0),
        ("There is not a cat. Yes, really.", "no", 1.0),
        ("Yes. But there is no dog.", "yes", 0.0),
        ("yes", "yes", 0.0),
        ("I cannot tell", None, 0.0),
        ("", None, 0.0),
        ("nothing", None, 0.0),
    ],
)
def test_pope_reads_the_first_sentence(tmp_path: Path, answer: str, parsed: str | None, right: float) -> None:
    question = read("pope", make_pope(tmp_path))[1]
    assert question.expected == ("no",)
    grade = scorer("pope").grade(question, answer)
    assert (grade.parsed, grade.score) == (parsed, right)


def test_pope_needs_all_three_splits(tmp_path: Path) -> None:
    questions = [question for question in read("pope", make_pope(tmp_path)) if question.part != "popular"]
    with pytest.raises(ScoringError, match="no question of popular"):
        scorer("pope").score(questions, {question.id: "yes" for question in questions})
    (tmp_path / "coco_pope_random.json").unlink()
    with pytest.raises(ScoringError, match="coco_pope_random"):
        read("pope", tmp_path)


def test_mme_is_a_sum_of_shares_of_answers_and_of_pictures(tmp_path: Path) -> None:
    questions = read("mme", make_mme(tmp_path))
    # All right but: existence has one of its four wrong (acc 75, acc+ 50); code_reasoning answers nothing of use.
    answers = {question.id: "Yes" if question.expected == ("yes",) else "No" for question in questions}
    answers["existence/0/1"] = "Yes"
    answers |= {question.id: "maybe" for question in questions if question.part == "code_reasoning"}
    scored = scorer("mme").score(questions, answers)
    found = points(scored)
    assert found["existence"] == 125.0 and found["perception"] == 9 * 200 + 125
    assert found["code_reasoning"] == 0.0 and found["cognition"] == 600.0
    assert scored.unparsed == pytest.approx(4 / 56)
    assert (
        max(points(scorer("mme").score(questions, answers | {q.id: q.expected[0] for q in questions})).values()) == 2000
    )


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [
        ("Yes.", "yes"),
        ("no way", "no"),
        ("Y", "yes"),
        ("n", "no"),
        ("It is, yes", None),
        ("unknown", None),
        ("know", "no"),
    ],
)
def test_mme_reads_the_first_four_letters(tmp_path: Path, answer: str, parsed: str | None) -> None:
    question = read("mme", make_mme(tmp_path, 1))[0]
    assert scorer("mme").grade(question, answer).parsed == parsed


def test_mme_replaces_its_own_instruction(tmp_path: Path) -> None:
    questions = read("mme", make_mme(tmp_path, 1), "\nAnswer with one word.")
    assert questions[0].prompt == "Is it 0?\nAnswer with one word."
    assert questions[0].picture is not None and questions[0].picture.read()


def test_mme_refuses_half_a_picture_and_a_lost_subtask(tmp_path: Path) -> None:
    questions = read("mme", make_mme(tmp_path))
    with pytest.raises(ScoringError, match="two questions"):
        scorer("mme").score(questions[1:], {question.id: "yes" for question in questions[1:]})
    rest = [question for question in questions if question.part != "OCR"]
    with pytest.raises(ScoringError, match="no question of OCR"):
        scorer("mme").score(rest, {question.id: "yes" for question in rest})


def test_hallusion_bench_is_the_mean_of_three(tmp_path: Path) -> None:
    # Right: set 0 figure 1 both; figure 2 the first only; set 1 wrong by "unclear".
    scored = score("hallusion_bench", make_hallusion(tmp_path), ["Yes.", "no", "No", "no", "unclear"])
    found = points(scored)
    assert found["aAcc"] == 60.0  # 3 of 5
    assert found["fAcc"] == 33.3333  # figure 0/1 of three
    assert found["qAcc"] == 33.3333  # set 0 question 0 of three
    assert found["mean"] == 42.2222
    assert scored.unparsed == 0.2
    assert len(scored.records) == 5, "the row without a picture is not of this split"
