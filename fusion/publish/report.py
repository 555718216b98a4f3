"""The report: one HTML page that opens offline, with everything inside - style, charts and pictures."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fusion.data.catalog import Catalog
from fusion.evaluate.gate import judge_variant
from fusion.evaluate.verdict import Status
from fusion.lineage.ancestry import Ancestry, ancestry_of
from fusion.lineage.environment import git_state, hardware
from fusion.lineage.times import StageTime, stage_times
from fusion.publish.beside_zoo import beside_zoo
from fusion.publish.charts import Line, line_chart, smooth
from fusion.publish.curves import all_stages, stage_panels
from fusion.publish.examples import Reason, Sample, held_out_answers, kept_samples, reasons
from fusion.publish.facts import DatasetFacts, Facts, StageFacts, collect_facts
from fusion.publish.text import templates
from fusion.settings import Settings

REASONS, EXAMPLES, KEPT = 6, 4, 6
"""Most reasons with pictures per data set, examples per reason, and kept samples shown beside them."""


@dataclass(frozen=True)
class Step:
    """One step of a funnel: what was left after it and what it took."""

    name: str
    left: int
    dropped: int


@dataclass(frozen=True)
class Curation:
    """One data set's way from ingested to kept, with examples."""

    facts: DatasetFacts
    steps: tuple[Step, ...]
    reasons: tuple[Reason, ...]
    kept: tuple[Sample, ...]

    @property
    def shown(self) -> list[Reason]:
        """The reasons that get pictures or texts; the others are only counted."""
        return list(self.reasons[:REASONS])


@dataclass(frozen=True)
class Phase:
    """The stages of one kind (ingest, shard, ...), with their times added up."""

    name: str
    stages: tuple[StageTime, ...]

    @property
    def seconds(self) -> float:
        """All of them together."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak_memory_bytes(self) -> int:
        """The hungriest of them."""
        return max(stage.peak_memory_bytes for stage in self.stages)


def write_report(settings: Settings, catalog: Catalog, variant: str, root: Path = Path(".")) -> Path:
    """Writes reports/<variant>/report.html, and the curves beside it as curves.png; returns the page's path.

    Raises `PublishError` or `LineageError` naming what is missing and the stage that makes it.
    """
    facts = collect_facts(settings, catalog, variant, root)
    ancestry = ancestry_of(f"package@{variant}", root)
    seed = settings.run.seed
    drawn, wrong = held_out_answers(variant, root, seed, settings.evaluation.report_pictures)
    phases = times_by_phase(ancestry, root)
    judged = judge_variant(settings, variant, root)
    page = templates().get_template("report.html").render(
        facts=facts,
        licence_sources=licence_table(facts),
        seed=seed,
        curations=[curation(dataset, root, seed) for dataset in facts.datasets],
        charts=[(stage, loss_chart(stage)) for stage in facts.stages],
        verdicts=[verdict for verdict in judged if verdict.required or verdict.status is not Status.NOT_RUN],
        blocked=[verdict for verdict in judged if verdict.blocks],
        not_run=sum(verdict.status is Status.NOT_RUN for verdict in judged),
        zoo_rows=beside_zoo(settings, variant, judged, root),
        reference=settings.variant(variant).evaluation.gate.reference,
        checkups=[(stage, chart) for stage in facts.stages if (chart := checkup_chart(stage, variant, root))],
        drawn=drawn,
        wrong=wrong,
        benchmark_titles={benchmark.name: benchmark.title for benchmark in facts.benchmarks},
        phases=phases,
        total_seconds=sum(phase.seconds for phase in phases),
        longest=max((phase.seconds for phase in phases), default=1.0) or 1.0,
        peak_memory=max((phase.peak_memory_bytes for phase in phases), default=0),
        measured_elsewhere=any(not stage.here for phase in phases for stage in phase.stages),
        digest=ancestry.digest,
        git=git_state(root),
        hardware=hardware(),
        ranks=settings.variant(variant).hardware,
        written=datetime.now().astimezone().strftime("%-d %B %Y, %H:%M"),
    )  # fmt: skip
    path = root / "reports" / variant / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".report.partial")
    partial.write_text(re.sub(r"\n\s*\n+", "\n", page), encoding="utf-8")
    partial.replace(path)
    all_stages(variant, stage_panels(variant, settings.variant(variant).stage_names, root)).save(
        path.with_name("curves.png"), optimize=True
    )
    return path


def curation(dataset: DatasetFacts, root: Path, seed: int) -> Curation:
    """The funnel of a data set, its reasons with examples, and some samples that passed."""
    return Curation(
        dataset,
        tuple(funnel(dataset)),
        tuple(reasons(dataset.name, root, seed, EXAMPLES)),
        tuple(kept_samples(dataset.name, root, seed, KEPT)),
    )


def funnel(dataset: DatasetFacts) -> list[Step]:
    """What each block took, if it took any; what could not be read goes first: curation's blocks never saw it."""
    blocks = [block["block"] for block in dataset.blocks]
    before = Counter[str]()
    for source in dataset.sources:
        for reason, count in source.reasons.items():
            before[reason.split("/")[0]] += count
    losses = [(name, count) for name, count in before.items() if name not in blocks]
    losses += [(block["block"], block["dropped"]) for block in dataset.blocks]
    steps, left = [Step("ingested", dataset.ingested, 0)], dataset.ingested
    for name, dropped in losses:
        left -= dropped
        if dropped:
            steps.append(Step(name, left, dropped))
    return [*steps, Step("kept", dataset.kept, 0)]


def loss_chart(stage: StageFacts) -> Markup:
    """Loss over steps: faint as measured, strong as its running mean; the part that is cross-entropy beside it."""
    curve = stage.curve
    window = max(1, len(curve["step"]) // 40)
    lines = [
        Line("loss of each step", "raw", curve["loss"]),
        Line("cross-entropy, running mean", "second", smooth(curve["cross_entropy"], window)),
        Line("loss, running mean", "main", smooth(curve["loss"], window)),
    ]
    return line_chart(f"Loss of {stage.title} over its steps", curve["step"], lines, "optimiser step", "loss")


def checkup_chart(stage: StageFacts, variant: str, root: Path) -> Markup | None:
    """What a benchmark gave while the stage went on, by its log; None where none was asked or none has answered."""
    found = checkups(root / "runs" / variant / f"{stage.name}.jsonl")
    if not found:
        return None
    steps = [float(step) for step in found]
    lines = [
        Line(name, kind, [100.0 * facts[name] for facts in found.values()])
        for name, kind in (("low", "raw"), ("high", "raw"), ("accuracy", "main"))
    ]
    asked = next(iter(found.values()))
    label = f"{asked['benchmark']} over the steps of {stage.title}"
    return line_chart(label, steps, lines, "optimiser step", f"% right of {asked['questions']}")


def checkups(log: Path) -> dict[int, dict[str, Any]]:
    """Step -> what its checkup gave, in order; of a step that was done again after a kill, what came last."""
    found: dict[int, dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        if '"event": "checkup"' in line and "accuracy" in (facts := json.loads(line)):
            found[int(facts["step"])] = facts
    return dict(sorted(found.items()))


def times_by_phase(ancestry: Ancestry, root: Path) -> list[Phase]:
    """The measured stages by kind, in the order in which they ran first."""
    phases: dict[str, list[StageTime]] = {}
    for time in stage_times(ancestry, root):
        phases.setdefault(time.stage.partition("@")[0], []).append(time)
    return [Phase(name, tuple(stages)) for name, stages in phases.items()]


def licence_table(facts: Facts) -> list[dict[str, Any]]:
    """One line per source: data set, category, samples kept, licence."""
    return [{"dataset": dataset.name, "source": source} for dataset in facts.datasets for source in dataset.sources]
