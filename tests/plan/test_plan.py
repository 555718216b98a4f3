"""`fusion plan`: agrees with what is published, adds up, advises what fits, and says what to do where nothing does."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fusion.cli import app
from fusion.data.catalog import load_catalog
from fusion.plan.api import make_plan, plan_step
from fusion.plan.choice import Choice, exchanged
from fusion.plan.errors import PlanError
from fusion.plan.facts import plan_facts
from fusion.plan.gpus import load_gpus
from fusion.plan.memory import model_states
from fusion.plan.traffic import traffic
from fusion.settings import STAGES, Lora, Settings, load_settings

ROOT = Path(__file__).parents[2]
SETTINGS = load_settings(ROOT / "params.yaml")
CATALOG = load_catalog(ROOT / "data/catalog")
RELEASED = ("fusion-phi35-3b", "fusion-llama31-8b", "fusion-x-phi35-3b", "fusion-x-llama31-8b")


def told(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("variant", RELEASED)
def test_steps_are_the_published_ones(variant: str) -> None:
    plan = make_plan(SETTINGS, CATALOG, variant, gpu="h100", gpus=32, root=ROOT)
    steps = [stage.model.steps for stage in plan.stages.values()]
    assert [round(number / 1000, 1) for number in steps if number] == [37.8, 35.5, 53.6]
    for stage in plan.stages.values():
        assert stage.advised.fits
        assert stage.advised.seconds <= min(o.seconds for o in stage.options if o.fits) * 1.02
        assert stage.gpu_hours == pytest.approx(32 * stage.model.steps * stage.advised.seconds / 3600)  # type: ignore[operator]
        assert sum(stage.advised.memory.values()) <= 79.1 * 2**30


@pytest.mark.parametrize("variant", sorted(SETTINGS.variants))
def test_every_variant_has_a_plan_as_json_and_as_tables(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = json.loads(told(monkeypatch, variant, "--json"))
    assert facts["gpus"] == SETTINGS.variant(variant).hardware.ranks
    assert list(facts["stages"]) == list(STAGES)
    for stage in facts["stages"].values():
        for option in stage["options"]:
            *parts, total = option["memory_bytes"].values()
            assert sum(parts) == pytest.approx(total)
            assert option["fits"] == (total <= option["usable_bytes"])
        flops = dict(stage["flops"]["a_sample"])
        assert flops.pop("all") == pytest.approx(sum(flops.values()))
        assert stage["tokens"]["a_step"] == pytest.approx(stage["tokens"]["a_sample"] * stage["global_batch"])
    tables = told(monkeypatch, variant)
    assert "GPU-hours" in tables and "GiB a GPU: total" in tables
    assert all(f"{stage}: take ZeRO-" in tables for stage in STAGES)


def test_choices_that_are_fixed_are_kept_and_all_memory_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = ["--gpus", "32", "--zero", "3", "--micro-batch", "2", "--checkpointing", "--utilisation", "0.5"]
    facts = json.loads(told(monkeypatch, "fusion-phi35-3b", *fixed, "--json"))
    for stage in facts["stages"].values():
        (option,) = stage["options"]
        assert (option["zero_stage"], option["micro_batch"], option["activation_checkpointing"]) == (3, 2, True)
    assert facts["utilisation"] == 0.5
    assert "activations" in told(monkeypatch, "fusion-phi35-3b", *fixed, "--memory")


def test_where_nothing_fits_the_way_out_that_is_named_is_one() -> None:
    with pytest.raises(PlanError, match=r"stage1: nothing fits on 1 x NVIDIA H100") as failure:
        make_plan(SETTINGS, CATALOG, "fusion-x-llama31-8b", gpus=1, root=ROOT)
    enough = re.search(r"(\d+) of these GPUs would be enough", str(failure.value))
    assert enough is not None and "--offload" in str(failure.value)
    make_plan(SETTINGS, CATALOG, "fusion-x-llama31-8b", gpus=int(enough[1]), root=ROOT)
    make_plan(SETTINGS, CATALOG, "fusion-x-llama31-8b", gpus=1, choice=Choice(offload=True), root=ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gpu": "h1000"}, "there is no GPU `h1000`; did you mean `h100`"),
        ({"gpus": 24}, "global_batch 256 is not divisible by 24 GPUs.*16 or 32 would do"),
        ({"gpus": 32, "choice": Choice(micro_batch=3)}, "micro-batch 3 does not divide .* one of 1, 2, 4, 8"),
        ({"gpus": 32, "choice": Choice(zero_stage=0)}, "without the restrictions that were asked for, ZeRO-1"),
    ],
)
def test_questions_without_an_answer_say_why(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=f"(?s){message}"):
        make_plan(SETTINGS, CATALOG, "fusion-llama31-8b", root=ROOT, **arguments)


def test_a_base_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    variant = SETTINGS.variant("fusion-phi35-3b")
    part = variant.base.llm.model_copy(update={"name": str(tmp_path / "nowhere")})
    base = variant.base.model_copy(update={"llm": part})
    changed = SETTINGS.model_copy(update={"variants": {"mine": variant.model_copy(update={"base": base})}})
    with pytest.raises(PlanError, match=r"base\.llm: the configuration of .*nowhere"):
        make_plan(changed, CATALOG, "mine", root=ROOT)


def test_a_base_model_in_a_folder_is_read(tmp_path: Path) -> None:
    fields = {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    variant = SETTINGS.variant("fusion-llama31-8b")
    part = variant.base.llm.model_copy(update={"name": str(tmp_path)})
    base = variant.base.model_copy(update={"llm": part})
    changed = SETTINGS.model_copy(update={"variants": {"small": variant.model_copy(update={"base": base})}})
    model = make_plan(changed, CATALOG, "small", gpus=8, root=ROOT).stages["stage1"].model
    # SmolLM2-135M: its own count, and two new rows.
    language = model.parameters.parts["decoder"] + model.parameters.parts["embedding"]
    assert language == 134_515_008 + 2 * 576
    assert "head" not in model.parameters.parts


def manifest(root: Path, dataset: str, tokenizer: str, rows: dict[str, list[Any]]) -> None:
    folder = root / "data" / "manifests" / dataset
    folder.mkdir(parents=True)
    texts = {f"text_tokens_{tokenizer}": rows.pop("text"), f"instruct_tokens_{tokenizer}": rows.pop("instruct")}
    pl.DataFrame({**rows, **texts}).write_parquet(folder / "manifest.parquet")


def test_lengths_and_steps_come_from_the_manifest_once_there_is_one(tmp_path: Path) -> None:
    manifest(
        tmp_path,
        "fusion-pretrain-10m",
        "phi35",
        {
            "text": [100, 200, 300, 5000],
            "instruct": [10, 1, 30, 10],
            "turns": [1, 1, 2, 1],
            "draws": [1, 2, 1, 1],
            "image_offset": [0, None, 0, 0],
            "image_size": [1000, None, 3000, 10],
            "record_size": [10, 20, 30, 40],
        },
    )
    found = traffic(CATALOG, "fusion-pretrain-10m", "phi35", tmp_path, 729, 144, 2048)
    assert found.samples == 4, "the one that does not fit into max_length is left out"
    assert found.too_long == pytest.approx(1 / 5)
    assert found.with_picture == pytest.approx(0.5)
    assert found.bytes == 1010 + 2 * 20 + 3030 + 50
    assert sum(kind.length(729, 16) * kind.count for kind in found.kinds) == pytest.approx(
        (845 + 2 * 216 + 300 + 729 + 32) / 4
    )
    assert found.source == "counted in its manifest"


def test_a_step_for_other_programs() -> None:
    step = plan_step("fusion-phi35-3b", "stage1_5", "h100", gpus=32, root=ROOT)
    assert step.samples == 128 and step.steps == 35524
    assert 100 < step.pictures <= 128
    assert 128 * 729 < step.tokens < 128 * 4096
    assert step.flops < step.executed_flops
    again = plan_step("fusion-phi35-3b", "stage1_5", "h100", gpus=32, utilisation=0.2, root=ROOT)
    assert again.seconds > step.seconds and again.flops == pytest.approx(step.flops, rel=0.02)


def test_frozen_parts_need_less() -> None:
    def states(settings: Settings) -> tuple[float, float]:
        option = make_plan(settings, CATALOG, "fusion-phi35-3b", gpus=8, root=ROOT).stages["stage1"].advised
        return option.memory["gradients"] + option.memory["optimizer"], option.model_flops

    training = SETTINGS.training.model_copy(update={"trained_parts": ["projectors"]})
    (memory, flops), (less, fewer) = states(SETTINGS), states(SETTINGS.model_copy(update={"training": training}))
    assert less < 0.05 * memory and fewer < flops


def test_adapters_need_less_and_are_counted() -> None:
    lora = Lora.model_validate({"rank": 16, "alpha": 32.0, "targets": {"language": ["qkv_proj", "o_proj"]}})
    changed = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"lora": lora})})
    whole, adapted = (
        make_plan(settings, CATALOG, "fusion-phi35-3b", gpus=8, root=ROOT).stages["stage1"]
        for settings in (SETTINGS, changed)
    )
    # 32 layers of width 3072: queries, keys and values are one map to 3 * 3072, outputs one of 3072.
    wanted = 32 * 16 * ((3072 + 3 * 3072) + (3072 + 3072))
    parts = whole.model.parameters.parts
    left = whole.model.trained - sum(parts[name] for name in ("embedding", "head", "decoder"))
    assert adapted.model.trained == left + wanted
    assert sum(adapted.advised.memory.values()) < sum(whole.advised.memory.values())
    wrong = lora.model_copy(update={"targets": {"language": ["q_proj"]}})
    changed = SETTINGS.model_copy(update={"training": SETTINGS.training.model_copy(update={"lora": wrong})})
    with pytest.raises(PlanError, match=r"stage1: lora\.targets\.language: there is no layer q_proj"):
        make_plan(changed, CATALOG, "fusion-phi35-3b", gpus=8, root=ROOT)


@given(
    parameters=st.integers(10**6, 10**11),
    size=st.sampled_from([2, 4]),
    ranks=st.sampled_from([2, 4, 8, 32, 256]),
    share=st.floats(0.01, 1),
)
def test_more_sharding_never_needs_more_memory(parameters: int, size: int, ranks: int, share: float) -> None:
    trained = int(share * parameters) or 1
    sums = []
    for zero in (1, 2, 3):
        states = model_states(parameters, trained, size, zero, ranks)
        sums.append(states.weights + states.gradients + states.optimizer)
        more = model_states(parameters, trained, size, zero, 2 * ranks)
        assert more.lasting <= states.lasting
        assert model_states(parameters, trained, size, zero, ranks, offload=True).optimizer == 0
    assert sums == sorted(sums, reverse=True)
    sent = [exchanged(parameters, parameters, size, zero, ranks, 4) for zero in (0, 2, 3)]
    assert sent == sorted(sent)
    assert exchanged(parameters, parameters, size, 2, 1, 4) == 0


def test_gpus_are_whole_entries() -> None:
    table = load_gpus()
    assert table["h100"].tflops == 989 and table["h100"].memory_gib < 80
    assert all(gpu.source for gpu in table.values())


def test_a_pilot_is_planned_for_one_gpu_and_its_share_of_the_samples() -> None:
    run = SETTINGS.run.model_copy(update={"pilot": 0.01})
    plan = make_plan(SETTINGS.model_copy(update={"run": run}), CATALOG, "fusion-llama31-8b", root=ROOT)
    assert plan.target.gpus == 1
    stage = plan.stages["stage1"]
    assert stage.model.traffic.samples == 96_760 and stage.model.steps == 378
    assert stage.advised.offload and stage.advised.zero_stage >= 1
    # Float32 weights, two moments and gradients of ten thousand million parameters, and the sum of micro-batches.
    advised, trained = stage.advised, stage.model.trained
    assert advised.accumulation > 1
    assert advised.host_memory == pytest.approx((16 + 2) * trained)
    moved = 2 * trained * 2 * advised.accumulation
    assert advised.host_seconds == pytest.approx(moved / 25e9 + trained / 0.5e9)
    assert advised.seconds == pytest.approx(advised.compute_seconds + advised.host_seconds)
    whole = {o.accumulation: o for o in stage.options if o.zero_stage == advised.zero_stage and not o.checkpointing}
    assert whole[1].host_memory == pytest.approx(16 * trained), "one micro-batch has no sum"
    assert sorted(whole, key=lambda number: whole[number].host_seconds) == sorted(whole)
    with pytest.raises(PlanError, match="from ZeRO stage 1 on"):
        make_plan(SETTINGS, CATALOG, "fusion-llama31-8b", choice=Choice(zero_stage=0, offload=True), root=ROOT)


def test_the_advice_can_be_written_into_params_yaml() -> None:
    """One micro-batch for all stages, as there is one setting of it; and what it is better than."""
    variant = "fusion-phi35-3b"
    plan = make_plan(load_settings(ROOT / "params.yaml"), CATALOG, variant, gpus=32, root=ROOT)
    facts = plan_facts(plan, price=2.0)
    assert facts["cost"] == pytest.approx(2 * facts["gpu_hours"]) and facts["hours"] == facts["gpu_hours"] / 32
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for dotted, values in facts["settings"].items():
        section = document
        for key in dotted.split("."):
            section = section[key]
        section |= values
    settings = Settings.model_validate(document)
    for name, stage in make_plan(settings, CATALOG, variant, gpus=32, root=ROOT).stages.items():
        assert stage.as_set == plan.stages[name].advised == stage.advised
        other = facts["stages"][name]["fallback"]
        assert other["memory_bytes"]["total"] <= 0.8 * stage.advised.total and other["fits"]


def test_a_stage_is_set_as_its_own_hardware_says() -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["variants"]["fusion-phi35-3b"]["stages"]["stage2"]["hardware"] = {"micro_batch": 2}
    plan = make_plan(Settings.model_validate(document), CATALOG, "fusion-phi35-3b", gpus=32, root=ROOT)
    assert {name: stage.as_set.micro_batch for name, stage in plan.stages.items()} == {
        "stage1": 4, "stage1_5": 4, "stage2": 2,
    }  # fmt: skip
