"""`fusion lineage`: the ancestry from the records alone, in four forms, and verified."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion.cli import app
from fusion.errors import FusionError
from fusion.lineage.ancestry import ancestry_of
from fusion.lineage.errors import LineageError
from fusion.lineage.page import page
from fusion.lineage.reference import find_family
from fusion.lineage.verify import verify_family
from fusion.lineage.view import as_tree
from tests.lineage.published_size import published_families


def package_of(project) -> Path:
    """A folder with the lineage of the package, as `fusion package` writes it."""
    folder = project.root / "made/published"
    folder.mkdir()
    (folder / "lineage.json").write_text(json.dumps(ancestry_of("package@tiny", project.root).document))
    return folder


def test_it_needs_no_data_and_gives_the_digest_of_the_card(project):
    project.run_all()
    digest = ancestry_of("package@tiny", project.root).digest
    shutil.rmtree(project.root / "made")
    shutil.rmtree(project.root / "counts")
    family = find_family("package@tiny", project.root)
    assert family.digest == digest
    assert [m.stage for m in family.members.values()][-1] == "package@tiny" and len(family.members) == 4
    assert not family.missing and not family.notes
    assert family.last.read["words"] == ("made/words", "made/words/all.txt")[:1]
    words = next(m for m in family.members.values() if m.stage == "words")
    assert words.sources == ("fusion/words.py", "source.txt")


@pytest.mark.parametrize("ref", ["counts/vowels.txt", "count@vowels", "made/words/all.txt", "words"])
def test_what_can_be_named(project, ref):
    project.run_all()
    family = find_family(ref, project.root)
    assert family.last.stage == ("count@vowels" if "vowels" in ref else "words")
    with pytest.raises(LineageError, match="nothing is known of `nobody`"):
        find_family("nobody", project.root)


def test_a_package_tells_its_lineage_anywhere_and_an_edit_is_found(project, tmp_path_factory):
    project.run_all()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    folder = shutil.move(package_of(project), elsewhere / "package")
    family = find_family(str(folder), elsewhere)
    assert family.digest == ancestry_of("package@tiny", project.root).digest
    assert {m.stage for m in family.members.values()} == {"words", "count@vowels", "count@others"}
    path = Path(folder) / "lineage.json"
    document = json.loads(path.read_text())
    document["stages"]["words"]["inputs"]["source.txt"] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(LineageError, match="words has not the digest"):
        find_family(str(folder), elsewhere)


def test_verification_finds_what_changed_and_what_is_not_here(project):
    project.run_all()
    family = find_family("package@tiny", project.root)
    assert not verify_family(family, project.root).damaged
    (project.root / "counts/vowels.txt").write_text("4")
    (project.root / "counts/others.txt").unlink()
    (project.root / "fusion/words.py").write_text("# other\n")
    found = verify_family(family, project.root)
    assert found.damaged == ["counts/vowels.txt"] and found.absent == ["counts/others.txt"]
    assert found.sources["fusion/words.py"] == "CHANGED" and found.sources["source.txt"] == "same"
    assert "[CHANGED]" in as_tree(family, found.outputs)


def test_a_missing_record_and_later_code_are_told(project):
    project.run_all()
    (project.root / "fusion/count.py").write_text("# counts otherwise\n")
    family = find_family("package@tiny", project.root)
    assert any("fusion/count.py" in note for note in family.notes)
    for path in project.root.glob("records/words/*.json"):
        path.unlink()
    assert find_family("package@tiny", project.root).missing == ["words"]


@pytest.mark.parametrize("form", ["tree", "json", "html", "dot"])
def test_the_command(project, form):
    project.run_all()
    project.monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["lineage", "package@tiny", "--format", form, "--verify", "--output", "out"])
    assert done.exit_code == 0, done.output
    text = (project.root / "out").read_text()
    assert "count@others" in text and "package@tiny" in text
    if form == "json":
        assert json.loads(text)["verified"]["outputs"]["counts/vowels.txt"] == "same"
    (project.root / "counts/vowels.txt").write_text("4")
    with pytest.raises(FusionError, match=r"counts/vowels\.txt is not what its record says"):
        CliRunner().invoke(app, ["lineage", "package@tiny", "--verify"], catch_exceptions=False)


def test_the_page_of_the_published_models_opens_offline_and_lists_every_source_once():
    families = published_families()
    text = page(families, None)
    assert "://" not in text.replace("http://www.w3.org/2000/svg", ""), "it would load something from elsewhere"
    assert text.count('class="src"') == 79 and text.count("<section") == 188
    assert len(text) < 1_500_000
    targets = [part.split('"')[0] for part in text.split('href="#')[1:]]
    assert all(f'id="{target}"' in text for target in targets), "a link that leads nowhere"
