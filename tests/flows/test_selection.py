"""Which stages a choice means, on the repository's own dvc.yaml and on a small one."""

import itertools

import pytest
import yaml

from flows.errors import FlowError
from flows.selection import PARTS, Kind, Selection, choose, kind_of, read_kinds, refuse_stale_inputs, variants_of
from fusion.lineage.stages import Stage, parents_of, producers, resolve_stages
from tests.flows.flow_project import HERE


def stage(name: str, deps: tuple[str, ...], outs: tuple[str, ...]) -> Stage:
    return Stage(name, "true", deps, outs, {})


@pytest.fixture
def stages() -> dict[str, Stage]:
    """Two variants over two data sets, one of which both use."""
    listed = [
        stage("settings", (), ()),
        *(stage(f"ingest@{name}", (), (f"raw/{name}",)) for name in ("one", "two")),
        *(stage(f"check@{name}", (f"raw/{name}",), (f"checked/{name}",)) for name in ("one", "two")),
        stage("train@small", ("checked/one",), ("weights/small",)),
        stage("train@large", ("checked/one", "checked/two"), ("weights/large",)),
        stage("score@small", ("weights/small",), ("scores/small",)),
        stage("score@large", ("weights/large",), ("scores/large",)),
    ]
    return {one.name: one for one in listed}


KINDS = {
    name: Kind(name, flow, ())
    for name, flow in {
        "settings": "data", "ingest": "data", "check": "data", "train": "training", "score": "evaluation",
    }.items()
}  # fmt: skip


def names(selection: Selection, stages: dict[str, Stage]) -> list[str]:
    return [one.name for one in choose(selection, stages, KINDS)]


def test_choices(stages):
    assert names(Selection(), stages) == list(stages)
    assert names(Selection("training"), stages) == ["train@small", "train@large"]
    assert names(Selection(variants=("small",)), stages) == ["ingest@one", "check@one", "train@small", "score@small"]
    assert names(Selection("data", variants=("small",)), stages) == ["ingest@one", "check@one"]
    assert names(Selection(until_kind="train"), stages) == [
        name for name in stages if kind_of(name) not in ("settings", "score")
    ]
    assert names(Selection(from_kind="train"), stages) == [
        name for name in stages if kind_of(name) in ("train", "score")
    ]
    assert names(Selection(from_kind="check", until_kind="check", variants=("small",)), stages) == ["check@one"]
    assert names(Selection(targets=("train@small",)), stages) == ["ingest@one", "check@one", "train@small"]
    assert names(Selection(only="train@large"), stages) == ["train@large"]
    assert variants_of(stages, KINDS) == ["small", "large"]


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(variants=("huge",)), "no stage builds the variant `huge`; run.variants of params.yaml has: small"),
        (Selection(from_kind="cook"), "no kind of stage `cook`; it has: settings, ingest, check, train, score"),
        (Selection(targets=("train@huge",)), "no stage `train@huge`; it has: settings"),
        (Selection(only="train"), "no stage `train`; it has: settings"),
    ],
)  # fmt: skip
def test_a_wrong_choice_says_what_there_is(stages, selection, words):
    with pytest.raises(FlowError, match=words.replace("(", r"\(")):
        choose(selection, stages, KINDS)


def test_nothing_is_made_from_stale_inputs(stages):
    chosen = choose(Selection(from_kind="train", variants=("small",)), stages, KINDS)
    refuse_stale_inputs(chosen, stages, {"ingest@two": "changed", "train@small": "changed"})
    with pytest.raises(FlowError, match=r"check@one comes before and is not up to date \(changed outs\)"):
        refuse_stale_inputs(chosen, stages, {"check@one": "changed outs"})


def test_every_stage_of_the_repository_belongs_to_one_flow_in_order():
    """The flows are run one after the other: no stage of an earlier flow may need one of a later flow."""
    stages, kinds = resolve_stages(HERE), read_kinds(HERE)
    assert list(kinds) == list(yaml.safe_load((HERE / "dvc.yaml").read_text())["stages"])
    assert all(kind.flow in PARTS for kind in kinds.values())
    assert sorted(one.name for part in PARTS for one in choose(Selection(part), stages, kinds)) == sorted(stages)
    outputs = producers(stages.values())
    for one, parent in itertools.chain.from_iterable(
        ((one, parent) for parent in parents_of(one, outputs)) for one in stages.values()
    ):
        order = PARTS.index(kinds[kind_of(parent)].flow or ""), PARTS.index(kinds[kind_of(one.name)].flow or "")
        assert order[0] <= order[1], f"{one.name} needs {parent}"
    assert {name for name, kind in kinds.items() if kind.retry_exit_codes == (75,)} == {
        name for name in kinds if name.startswith("train_")
    }
    assert variants_of(stages, kinds) == yaml.safe_load((HERE / "params.yaml").read_text())["run"]["variants"]
