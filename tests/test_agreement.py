"""params.yaml and the catalog have to fit each other; what does not is named with file and key, all at once."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusion.agreement import check_agreement, check_blocks, check_pins
from fusion.data.catalog import load_catalog
from fusion.settings import SettingsError, load_settings

ROOT = Path(__file__).parents[1]
TINY = "data/catalog/tiny.yaml"


class Copy:
    """params.yaml, catalog and tokenizer in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copy(ROOT / "params.yaml", root)
        shutil.copytree(ROOT / "data/catalog", root / "data/catalog")
        shutil.copytree(ROOT / "data/tokenizers", root / "data/tokenizers")

    def edit(self, file: str, dotted: str, value: Any) -> None:
        """Sets one key."""
        document = yaml.safe_load((self.root / file).read_text(encoding="utf-8"))
        *parents, last = dotted.split(".")
        section = document
        for key in parents:
            section = section[key]
        section[last] = value
        (self.root / file).write_text(yaml.safe_dump(document), encoding="utf-8")

    def check(self) -> None:
        """All checks."""
        settings = load_settings(self.root / "params.yaml")
        catalog = load_catalog(self.root / "data/catalog")
        check_agreement(settings, catalog, self.root)
        check_blocks(settings)
        check_pins(settings, catalog, self.root)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_the_project_agrees_with_itself(copy: Copy) -> None:
    copy.check()


@pytest.mark.parametrize(
    ("file", "key", "value", "words"),
    [
        ("params.yaml", "variants.tiny.data.stage1", "tiny-stag1",
         ("variants.tiny.data.stage1", "`tiny-stag1`; did you mean `tiny-stage1`?")),
        ("params.yaml", "variants.tiny.data.tokenizer", "tinny",
         ("variants.tiny.data.tokenizer", "tiny.yaml: datasets.tiny-stage2.tokenizers has no `tinny`", "`tiny`?")),
        ("params.yaml", "variants.tiny.evaluation.benchmarks", {"easy-vqa-tset": {"questions": 9}},
         ("variants.tiny.evaluation.benchmarks.easy-vqa-tset", "did you mean `easy-vqa-test`?")),
        ("params.yaml", "variants.tiny.evaluation.benchmarks", {}, ("evaluation.benchmarks", "one at least")),
        ("params.yaml", "variants.tiny.evaluation.gate.over_blind", {"easy-vqa-tset": 0.1},
         ("variants.tiny.evaluation.gate.over_blind", "easy-vqa-tset is not in evaluation.benchmarks")),
        ("params.yaml", "variants.tiny.evaluation.columns", ["POPEE"],
         ("variants.tiny.evaluation.columns.0", "no column `POPEE`; did you mean `POPE`?")),
        ("params.yaml", "evaluation.roots", {"POPEE": "/data"}, ("evaluation.roots.POPEE", "did you mean `POPE`?")),
        ("params.yaml", "variants.tiny.evaluation.gate.reference", "FUSION-Phi3.5-4B",
         ("variants.tiny.evaluation.gate.reference", "did you mean `FUSION-Phi3.5-3B`?")),
        ("params.yaml", "variants.tiny.template", "llama_3",
         ("variants.tiny.template", "<|eot_id|>", "data/tokenizers/tiny", "counted with phi_3")),
        ("params.yaml", "variants.tiny.base.tokenizer", "data/tokenizers/small",
         ("variants.tiny.base.tokenizer", "data/tokenizers/small holds no tokenizer.json")),
        ("params.yaml", "data.roots", {"tiny-stage3": "/d"}, ("data.roots.tiny-stage3", "did you mean `tiny-stage")),
        ("params.yaml", "curation.blocks", ["schema", "mixtur"], ("curation.blocks", "`mixtur`", "mixture")),
        ("params.yaml", "curation.blocks", ["schema", "schema"], ("curation.blocks", "`schema` stands there twice")),
        (TINY, "datasets.tiny-stage2.sources.code.profile", "txt",
         ("tiny.yaml: datasets.tiny-stage2.sources.code.profile", "`txt`; did you mean `text`?")),
        (TINY, "datasets.tiny-stage2.tokenizers.tiny.template", "llama_3", ("variants.tiny.template", "llama_3")),
        ("data/catalog/benchmarks.yaml", "benchmarks.scenes-test.origin",
         {"kind": "text", "topic": "code", "conversations": 3},
         ("benchmarks.yaml: benchmarks.scenes-test.origin.kind", "`text` makes no questions")),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(copy: Copy, file: str, key: str, value: Any, words: tuple[str, ...]) -> None:
    copy.edit(file, key, value)
    with pytest.raises(SettingsError) as caught:
        copy.check()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_all_of_it_is_named_at_once(copy: Copy) -> None:
    for profile in ("captions", "rendered"):
        copy.edit(
            TINY, f"datasets.tiny-stage1.sources.{'maths' if profile == 'rendered' else 'clipart-long'}.profile", "x"
        )
    copy.edit("params.yaml", "variants.micro.data.stage2", "x")
    with pytest.raises(SettingsError, match=r"^3 settings of params\.yaml"):
        copy.check()


def test_a_folder_may_stand_for_the_tokenizer_of_the_hub(copy: Copy, tmp_path: Path) -> None:
    """The catalog counts with a Hub id; the base model may be a download of it."""
    (tmp_path / "phi").mkdir()
    copy.edit("params.yaml", "variants.fusion-phi35-3b.base.llm.name", str(tmp_path / "phi"))
    copy.check()
    copy.edit("params.yaml", "variants.fusion-phi35-3b.base.llm.name", "microsoft/phi-2")
    with pytest.raises(SettingsError, match="counted with microsoft/Phi-3"):
        copy.check()


def test_what_comes_from_the_hub_is_of_one_commit(copy: Copy) -> None:
    """Demanded of run.variants alone, all at once, with the key to change."""
    copy.edit("params.yaml", "run.variants", ["micro", "fusion-phi35-3b"])
    file = "data/catalog/published.yaml"
    sets = ["fusion-pretrain-10m", "fusion-5m-stage1_5", "fusion-7m-stage2"]
    with pytest.raises(SettingsError) as caught:
        copy.check()
    head, *lines = str(caught.value).splitlines()
    assert head == "what comes from the Hub is not pinned:" and len(lines) == 8
    for name in sets:
        where = f"{file}: datasets.{name}.tokenizers.phi35: the catalog pins no revision of microsoft/Phi-3.5-mini-"
        assert any(where in line for line in lines)
    for part in ("llm", "tower"):
        key = f"variants.fusion-phi35-3b.base.{part}.revision"
        assert any(line.startswith(f"params.yaml: {key}: missing: which weights of ") for line in lines)
        copy.edit("params.yaml", key, "main")
        with pytest.raises(SettingsError, match=rf"base\.{part}\.revision: `main` can move"):
            copy.check()
        copy.edit("params.yaml", key, "c0ffee" * 6 + "abcd")
    (copy.root / "phi").mkdir()
    for name in sets:
        copy.edit(file, f"datasets.{name}.tokenizers.phi35.revision", "c0ffee" * 6 + "abcd")
        copy.edit(file, f"datasets.{name}.tokenizers.llama31.revision", "main")
    with pytest.raises(SettingsError, match=r"llama31: `main` of meta-llama/\S+ is no commit of 40 digits"):
        copy.check()
    for name in sets:
        copy.edit(file, f"datasets.{name}.tokenizers.llama31", {"name": "phi", "template": "llama_3"})
    copy.check()


def test_tokenizers_of_a_combined_data_set_are_named_where_they_stand(copy: Copy) -> None:
    for name in ("micro-stage1", "micro-stage2"):
        copy.edit(
            "data/catalog/micro.yaml", f"datasets.{name}.tokenizers.other", {"name": "some/one", "template": "phi_3"}
        )
    both = {"title": "both", "for_stage": "stage2", "combines": ["micro-stage1", "micro-stage2"]}
    copy.edit("data/catalog/micro.yaml", "datasets.both", both)
    copy.edit("params.yaml", "run.variants", ["micro"])
    copy.edit("params.yaml", "variants.micro.stages.stage1_5", None)
    copy.edit(
        "params.yaml",
        "variants.micro.data",
        {"stage1": "micro-stage1", "stage1_5": None, "stage2": "both", "tokenizer": "tiny"},
    )
    with pytest.raises(SettingsError) as caught:
        copy.check()
    assert [
        line.partition(": the catalog pins no revision of some/one")[0] for line in str(caught.value).splitlines()[1:]
    ] == [
        f"{copy.root}/data/catalog/micro.yaml: datasets.{name}.tokenizers.other"
        for name in ("micro-stage1", "micro-stage2")
    ]
