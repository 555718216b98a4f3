"""Benchmarks of a few questions, made up here and written in each benchmark's own schema and files."""

import csv
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from fusion.evaluate.scorers.base import Question, Scored
from fusion.evaluate.scorers.known import scorer


@cache
def encoded(colour: str) -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def picture(path: Path, colour: str = "red") -> bytes:
    """A small picture, written to `path` too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(colour))
    return encoded(colour)


def write(path: Path, value: Any) -> None:
    """JSON, JSON lines, parquet or a table with a header, by the name's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in value), encoding="utf-8")
    elif path.suffix == ".parquet":
        pl.DataFrame(value).write_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(value[0]), delimiter="," if path.suffix == ".csv" else "\t")
            table.writeheader()
            table.writerows(value)
    else:
        path.write_text(json.dumps(value), encoding="utf-8")


def read(name: str, folder: Path, instruction: str = "") -> list[Question]:
    """The questions of a folder by the scorer's name."""
    return scorer(name).read(folder, instruction)


def score(name: str, folder: Path, answers: list[str]) -> Scored:
    """The answers, given in the questions' order, scored."""
    questions = read(name, folder)
    return scorer(name).score(questions, dict(zip((q.id for q in questions), answers, strict=True)))


def points(scored: Scored) -> dict[str, float]:
    """The numbers, rounded so that they can be compared with ones made by hand."""
    return {name: round(value.point, 4) for name, value in scored.values.items()}


POPE = {
    # Two questions a picture; of each split: yes, no, yes, no.
    "random": [("a.jpg", "dog", "yes"), ("a.jpg", "cat", "no"), ("b.jpg", "car", "yes"), ("b.jpg", "bus", "no")],
    "popular": [("a.jpg", "dog", "yes"), ("a.jpg", "man", "no"), ("b.jpg", "car", "yes"), ("b.jpg", "cup", "no")],
    "adversarial": [("a.jpg", "dog", "yes"), ("a.jpg", "fox", "no"), ("b.jpg", "car", "yes"), ("b.jpg", "van", "no")],
}


def make_pope(folder: Path) -> Path:
    """Three splits of four questions."""
    for split, rows in POPE.items():
        lines = [
            {"question_id": number, "image": image, "text": f"Is there a {thing} in the image?", "label": label}
            for number, (image, thing, label) in enumerate(rows, 1)
        ]
        write(folder / f"coco_pope_{split}.json", lines[0])
        # The published files have one object a line, whatever their name says.
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("a.jpg", "b.jpg"):
        picture(folder / "val2014" / name)
    return folder


def make_mme(folder: Path, pictures: int = 2) -> Path:
    """All fourteen subtasks with `pictures` pictures each: question 0 is a yes, question 1 a no."""
    from fusion.evaluate.scorers.mme import COGNITION, PERCEPTION

    for task in (*PERCEPTION, *COGNITION):
        for number in range(pictures):
            picture(folder / task / f"{number}.png")
            lines = [f"Is it {number}? Please answer yes or no.\tYes", "Is it not? Please answer yes or no.\tNo"]
            (folder / task / f"{number}.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_mmbench(folder: Path) -> Path:
    """Two questions: one of three options in three turns, one of two options in two; the first has two categories."""
    import base64

    image = base64.b64encode(picture(folder / "p.png") + b"\0" * 300).decode()
    rows = []
    for turn, (a, b, c, answer) in enumerate(
        [("cat", "dog", "cow", "A"), ("cow", "cat", "dog", "B"), ("dog", "cow", "cat", "C")]
    ):
        rows.append({
            "index": 7 + turn * 1_000_000, "question": "Which animal?", "hint": "" if turn else "Look closely.",
            "A": a, "B": b, "C": c, "D": "", "answer": answer, "category": "animals", "l2-category": "things",
            "image": image if turn == 0 else "7",
        })  # fmt: skip
    for turn, (a, b, answer) in enumerate([("red", "blue", "B"), ("blue", "red", "A")]):
        rows.append({
            "index": 8 + turn * 1_000_000, "question": "Which colour?", "hint": "nan", "A": a, "B": b, "C": "",
            "D": "", "answer": answer, "category": "colours", "l2-category": "looks", "image": image,
        })  # fmt: skip
    write(folder / "mmbench_dev_en.tsv", rows)
    return folder


def make_cv_bench(folder: Path) -> Path:
    """Four questions of ADE20K, two of COCO, two of Omni3D."""
    rows = []
    for index, source in enumerate(["ADE20K"] * 4 + ["COCO"] * 2 + ["Omni3D"] * 2):
        name = f"img/{index}.png"
        picture(folder / name)
        rows.append({
            "idx": index, "type": "3D" if source == "Omni3D" else "2D", "task": "Count", "source": source,
            "question": "How many apples are there?", "choices": ["1", "2"], "answer": "(A)", "filename": name,
            "prompt": "How many apples are there? Select from the following choices.\n(A) 1\n(B) 2",
        })  # fmt: skip
    write(folder / "test.jsonl", rows)
    return folder


def make_mmvp(folder: Path, pairs: int = 2) -> Path:
    """So many pairs."""
    rows = []
    for index in range(1, 2 * pairs + 1):
        picture(folder / "MMVP Images" / f"{index}.jpg")
        rows.append({
            "Index": index, "Question": "Is the door open?", "Options": "(a) Open (b) Closed",
            "Correct Answer": "(a)" if index % 2 else "(b)",
        })  # fmt: skip
    write(folder / "Questions.csv", rows)
    return folder


def make_science_qa(folder: Path) -> Path:
    """Three questions of the test split, one of them without a picture."""
    base = {"choices": ["iron", "wood"], "hint": "", "subject": "natural science", "split": "test"}
    problems = {
        "1": {**base, "question": "Which is a metal?", "answer": 0, "image": "image.png", "hint": "Think."},
        "2": {**base, "question": "Which one floats?", "answer": 1, "image": None},
        "3": {**base, "question": "Which one burns?", "answer": 1, "image": "image.png"},
        "4": {**base, "question": "Not of the split?", "answer": 1, "image": "image.png"},
    }
    write(folder / "problems.json", problems)
    write(folder / "pid_splits.json", {"train": ["4"], "test": ["1", "2", "3"]})
    for number in (1, 3):
        picture(folder / f"images/test/{number}/image.png")
    return folder


def make_vqa(folder: Path, name: str) -> Path:
    """Two questions with ten answers each: five times blue, three times dark blue, two others; and ten times no."""
    people = [["blue"] * 5 + ["dark blue"] * 3 + ["Navy.", "a sky"], ["no"] * 10]
    if name == "vizwiz":
        rows: Any = [
            {"image": f"{n}.jpg", "question": "what colour is this?", "answerable": 1,
             "answers": [{"answer": a, "answer_confidence": "yes"} for a in given]}
            for n, given in enumerate(people)
        ]  # fmt: skip
        write(folder / "val.json", rows)
    else:
        rows = [
            {"question_id": 10 + n, "image_id": "x", "question": "what colour is this?", "answers": given,
             "image_classes": [], "flickr_original_url": ""}
            for n, given in enumerate(people)
        ]  # fmt: skip
        write(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    for stem in ("0", "1", "x"):
        picture(folder / ("images" if name == "vizwiz" else "train_images") / f"{stem}.jpg")
    return folder


def make_mmmu(folder: Path) -> Path:
    """A choice, two open questions (a number; a list of texts), and a choice with two pictures."""
    image = {"bytes": picture(folder / "p.png"), "path": "p.png"}
    base = {"explanation": "", "image_1": image, "image_2": None, "subfield": "x"}
    rows = [
        {**base, "id": "validation_Art_1", "question": "Who made <image 1>?", "options": "['Monet', 'Manet', 'Klee']",
         "answer": "B", "question_type": "multiple-choice"},
        {**base, "id": "validation_Math_1", "question": "Area in <image 1>?", "options": "[]", "answer": "1,234.5",
         "question_type": "open"},
        {**base, "id": "validation_Math_2", "question": "Shape in <image 1>?", "options": "[]",
         "answer": "['square', 'quadrate']", "question_type": "open"},
        {**base, "id": "validation_Art_2", "question": "Is <image 1> or <image 2> older?", "options": "['one', 'two']",
         "answer": "A", "question_type": "multiple-choice", "image_2": image},
    ]  # fmt: skip
    write(folder / "validation-00000-of-00001.parquet", rows)
    return folder


def make_hallusion(folder: Path) -> Path:
    """One set of two figures with two questions each, another set of one figure, and a row without a picture."""
    rows = []
    for set_id, figure, asked, truth in [("0", "1", "0", "1"), ("0", "1", "1", "0"), ("0", "2", "0", "0"),
                                         ("0", "2", "1", "1"), ("1", "1", "0", "1")]:  # fmt: skip
        name = f"hallusion_bench/VD/figure/{set_id}_{figure}.png"
        picture(folder / name)
        rows.append({
            "category": "VD", "subcategory": "figure", "visual_input": "1", "set_id": set_id, "figure_id": figure,
            "sample_note": "", "question_id": asked, "question": "Is it longer?", "gt_answer_details": "x",
            "gt_answer": truth, "filename": name,
        })  # fmt: skip
    rows.append({**rows[0], "visual_input": "0", "figure_id": "0", "category": "VS", "filename": None})
    write(folder / "HallusionBench.json", rows)
    return folder


def make_mm_vet(folder: Path) -> Path:
    """Three questions about two pictures."""
    for name in ("v1_0.png", "v1_1.jpg"):
        picture(folder / "images" / name)
    row = {"imagesource": "here", "capability": ["rec", "ocr"]}
    write(folder / "mm-vet.json", {
        "v1_0": {**row, "imagename": "v1_0.png", "question": "What is x?", "answer": "1<OR>one"},
        "v1_1": {**row, "imagename": "v1_1.jpg", "question": "What is y?", "answer": "2<AND>3", "capability": ["math"]},
        "v1_2": {**row, "imagename": "v1_1.jpg", "question": "What is z?", "answer": "4"},
    })  # fmt: skip
    return folder


def make_llava_wild(folder: Path, count: int = 2) -> Path:
    """Questions about one picture, the second one of another category."""
    picture(folder / "images/001.jpg")
    write(folder / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": "A red square."}])
    write(folder / "questions.jsonl", [
        {"question_id": n, "image": "001.jpg", "text": f"What is {n}?", "category": "complex" if n == 1 else "conv"}
        for n in range(count)
    ])  # fmt: skip
    write(
        folder / "answers_gpt4.jsonl", [{"question_id": n, "text": "A square.", "answer_id": "r"} for n in range(count)]
    )
    return folder
