"""`run.pilot`: one setting makes a trial of any variant, on a share of each source, on one GPU, with the same gates."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.data.catalog import SAMPLING
from fusion.data.ingest.sampling import chosen_rows, thinned
from fusion.settings import Settings, SettingsError, load_settings
from fusion.train.recipe import make_recipe
from tests.e2e.project import copy_project

PARAMS = Path(__file__).parents[1] / "params.yaml"
SETTINGS = load_settings(PARAMS)


def pilot(share: float) -> Settings:
    return SETTINGS.model_copy(update={"run": SETTINGS.run.model_copy(update={"pilot": share})})


strategies = st.one_of(
    st.just("all"),
    st.builds("{}:{}".format, st.sampled_from(["first", "end", "random"]), st.integers(1, 10**7)),
    st.builds("{}%".format, st.integers(1, 100)),
)


@given(strategies, st.sampled_from([0.001, 0.01, 0.1, 0.5]), st.integers(1, 30_000))
def test_a_pilot_takes_its_share_of_what_the_source_takes(strategy: str, share: float, rows: int) -> None:
    def taken(chosen: str) -> int:
        mask = chosen_rows(chosen, rows, 7, "source")
        return rows if mask is None else min(mask, rows) if isinstance(mask, int) else int(mask.sum())

    assert thinned(strategy, None) == strategy
    thin = thinned(strategy, share)
    kind = strategy.split(":")[0]
    if kind in ("first", "end", "random") and int(strategy.split(":")[1]) > rows:
        assert taken(thin) <= taken(strategy)
    else:
        assert abs(taken(thin) - max(1, share * taken(strategy))) <= 1
    assert SAMPLING.match(strategy) and (thin == strategy or re.match(r"^(first|end|random):\d+$|^[0-9.e-]+%$", thin))


def test_the_pilot_of_a_part_is_drawn_alike_everywhere() -> None:
    first, again = (chosen_rows(thinned("all", 0.01), 5000, 3, "source") for _ in range(2))
    assert isinstance(first, np.ndarray) and first.sum() == 50
    np.testing.assert_array_equal(first, again)


def test_a_pilot_trains_on_one_gpu_with_everything_else_as_it_is() -> None:
    real, trial = (make_recipe(settings, "fusion-llama31-8b", "stage2") for settings in (SETTINGS, pilot(0.01)))
    assert real.hardware == SETTINGS.variant("fusion-llama31-8b").hardware
    assert (trial.hardware.ranks, trial.hardware.offload_optimizer) == (1, True)
    assert trial.settings == real.settings and trial.model == real.model and trial.dataset == real.dataset
    assert not make_recipe(pilot(0.01), "tiny", "stage1").hardware.offload_optimizer


@pytest.mark.long
def test_deepspeed_is_told_to_offload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long, because it imports DeepSpeed."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from fusion.train.engine import deepspeed_config

    real, trial = (make_recipe(settings, "fusion-llama31-8b", "stage2") for settings in (SETTINGS, pilot(0.01)))
    assert deepspeed_config(trial, 10)["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}
    assert "offload_optimizer" not in deepspeed_config(real, 10)["zero_optimization"]


def test_the_package_of_a_pilot_says_so() -> None:
    assert SETTINGS.published_name("fusion-phi35-3b") == "Llama-FUSION-Phi3.5-3B"
    assert pilot(0.01).published_name("fusion-phi35-3b") == "Llama-FUSION-Phi3.5-3B-Pilot"


@pytest.mark.parametrize("value", ["0", "1.0", "true", "1%"])
def test_a_share_that_is_none_is_an_error(tmp_path: Path, value: str) -> None:
    text = PARAMS.read_text(encoding="utf-8").replace("  pilot: null ", f"  pilot: {value} ")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"run\.pilot"):
        load_settings(tmp_path / "params.yaml")


@pytest.mark.long
def test_a_pilot_goes_through_the_whole_chain(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", "micro")
    project.set("run.pilot", 0.5)
    project.repro("package@micro")
    card = (project.root / "packages/micro/README.md").read_text(encoding="utf-8")
    assert "FUSION-Micro-Pilot" in card
    project.set("run.pilot", None)
    assert "ingest@micro-stage1" in project.run("dvc", "status").stdout
