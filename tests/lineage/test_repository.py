"""The repository's own dvc.yaml: what the lineage in a package needs from it."""

from pathlib import Path

import pytest

from fusion.lineage.records import source_inputs
from fusion.lineage.stages import ancestors_of, resolve_stages

HERE = Path(__file__).parents[2]


def covers(wider: str, narrower: str, separator: str) -> bool:
    """Whether `wider` is `narrower` or holds it."""
    return wider == narrower or narrower.startswith(wider + separator)


@pytest.fixture(scope="module")
def stages():
    """All stages of the repository, resolved by DVC."""
    assert (HERE / "data/pipeline.yaml").is_file(), "data/pipeline.yaml is in git: `fusion settings --write` makes it"
    return resolve_stages(HERE)


def test_a_package_is_made_again_whenever_its_ancestry_changes(stages):
    """lineage.json holds code and parameters of all ancestors, also where they changed without changing any output."""
    packages = [stage for stage in stages.values() if stage.name.startswith("package@")]
    assert packages
    for package in packages:
        for ancestor in ancestors_of(package.name, stages):
            for path in source_inputs(ancestor, stages):
                assert any(covers(dep, path, "/") for dep in package.deps), f"{package.name}: {path} ({ancestor.name})"
            for file, values in ancestor.params.items():
                for key in values:
                    by_file = any(covers(dep, file, "/") for dep in package.deps)
                    by_key = any(covers(own, key, ".") for own in package.params.get(file, {}))
                    assert by_file or by_key, f"{package.name}: {file}: {key} ({ancestor.name})"


def test_every_stage_names_the_code_that_it_runs(stages):
    for stage in stages.values():
        if stage.name != "settings":
            assert any(covers("fusion", path, "/") for path in source_inputs(stage, stages)), stage.name
