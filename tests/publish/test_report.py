"""The report and the summary: complete, self-contained, escaped, and from the run's own numbers."""

import io
import json
import re
from html.parser import HTMLParser

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fusion.data.pictures import data_address
from fusion.errors import FusionError
from fusion.publish.charts import Line, line_chart, smooth, ticks
from fusion.publish.examples import held_out_answers
from fusion.publish.facts import collect_facts
from fusion.publish.report import funnel, write_report
from fusion.publish.summary import print_summary
from fusion.publish.text import memory, millions, seconds
from tests.publish.finished_run import record_again

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open, and collects what would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_the_report_is_one_whole_page_that_loads_nothing(run):
    settings, catalog, root = run
    path = write_report(settings, catalog, "tiny", root)
    assert path == root / "reports/tiny/report.html"
    page = path.read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert all(address.startswith(("data:", "#")) for address in parser.loads)
    assert "<script" not in page and "@import" not in page and "url(" not in page
    for words in (
        "FUSION-Tiny",
        "85.4",
        "+18.4",
        "not distinguishable from blind",
        "near duplicate picture",
        "CC-BY-4.0",
    ):
        assert words in page
    assert "This model passes." in page and "23 were not run" in page and page.count("<td>PASS</td>") == 2
    assert page.count('<svg class="chart"') == 3 and page.count('class="answer"') > settings.evaluation.report_pictures
    assert path.stat().st_size < 3_000_000


def test_text_from_data_cannot_become_markup(run):
    settings, catalog, root = run
    path = root / "results/tiny/evaluation/answers.parquet"
    evil = "<script>alert(1)</script>"
    pl.read_parquet(path).with_columns(prediction=pl.lit(evil), correct=pl.lit(False)).write_parquet(path)
    ledger = root / "data/manifests/tiny-stage1/ledger.parquet"
    pl.read_parquet(ledger).with_columns(evidence=pl.lit(evil)).write_parquet(ledger)
    record_again(root)
    page = write_report(settings, catalog, "tiny", root).read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page


def test_answers_are_drawn_by_seed_and_not_by_result(run):
    _, _, root = run
    drawn, wrong = held_out_answers("tiny", root, seed=1, count=12)
    assert (drawn, wrong) == held_out_answers("tiny", root, seed=1, count=12)
    assert drawn != held_out_answers("tiny", root, seed=2, count=12)[0]
    assert [answer.benchmark for answer in drawn] == ["easy-vqa-test"] * 6 + ["scenes-test"] * 6
    assert all(answer.picture and answer.picture.startswith("data:image/") for answer in [*drawn, *wrong])
    assert len({answer.picture for answer in [*drawn, *wrong]}) == len([*drawn, *wrong])
    assert not any(answer.correct for answer in wrong)


def test_the_funnel_adds_up(run):
    settings, catalog, root = run
    for dataset in collect_facts(settings, catalog, "tiny", root).datasets:
        steps = funnel(dataset)
        assert steps[0].left == dataset.ingested and steps[-1].left == dataset.kept
        assert steps[0].left - sum(step.dropped for step in steps) == steps[-1].left == steps[-2].left


def test_a_missing_file_is_named(run):
    settings, catalog, root = run
    (root / "results/tiny/stage1_5/loss.csv").unlink()
    with pytest.raises(FusionError, match=r"loss\.csv is missing: run `dvc repro train_stage1_5@tiny`"):
        write_report(settings, catalog, "tiny", root)


def test_a_variant_whose_every_sample_was_dropped_still_has_a_report(run):
    settings, catalog, root = run
    folder = root / "data/manifests/tiny-stage1"
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "kept": 0, "ingested": 0, "rejected": 0}))
    manifest = pl.read_parquet(folder / "manifest.parquet")
    manifest.head(0).write_parquet(folder / "manifest.parquet")
    record_again(root)
    assert "0 of 0 samples kept" in write_report(settings, catalog, "tiny", root).read_text(encoding="utf-8")


def test_the_summary_shows_scores_beside_baselines_and_where_the_report_is(run):
    settings, catalog, root = run
    console = Console(file=io.StringIO(), width=132)
    print_summary(settings, catalog, "tiny", root, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"easy-vqa-test +all questions +2,000 +85\.4 \(83\.4.87\.2\) +66\.0 +67\.0 +\+18\.4", text)
    assert re.search(r"tiny-stage1 +stage 1 +48 +40 +8", text)
    assert "reports/tiny/report.html" in text


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_ticks_are_few_and_reach_the_top(top):
    found = ticks(top, 4)
    assert found[0] == 0 and found[-1] >= top * 0.999 and 2 <= len(found) <= 6


@given(st.lists(st.floats(min_value=-10, max_value=10), min_size=1, max_size=50), st.integers(min_value=1, max_value=9))
def test_smoothing_is_the_mean_of_the_last_values(values, window):
    expected = [sum(part) / len(part) for part in (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))]
    assert smooth(values, window) == pytest.approx(expected, abs=1e-6)


def test_charts_take_long_short_and_broken_curves():
    for values in ([], [1.0], [float("nan"), 2.0, float("inf")], [float(i) for i in range(100_000)]):
        steps = [float(i) for i in range(len(values))]
        chart = line_chart("a <b>", steps, [Line("x", "main", values)], "step", "loss")
        assert chart.startswith("<svg") and "a &lt;b&gt;" in chart and len(chart) < 20_000


def test_pictures_that_cannot_be_decoded_are_left_out():
    assert data_address(b"no picture") is None
    assert data_address(b"\x89PNG\r\n\x1a\n" + b"\0" * 40) is None


def test_numbers_as_people_read_them():
    assert [seconds(value) for value in (0.84, 42, 365, 12_000)] == ["0.8 s", "42 s", "6 min 05 s", "3 h 20 min"]
    assert [millions(value) for value in (42_000, 2_345_678, 5.09e9)] == ["42 k", "2.3 M", "5.09 B"]
    assert [memory(value) for value in (512 * 2**20, 3.4 * 2**30)] == ["512 MB", "3.4 GB"]
