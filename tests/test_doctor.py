"""`fusion doctor` about DVC's settings."""

from pathlib import Path

import pytest

from fusion.doctor import storage

GOOD = """[core]
    analytics = false
    check_update = false
[cache]
    type = "reflink,copy"
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("reflink,copy", "reflink,hardlink,copy", "cache.type names hardlink"),
        ("reflink,copy", "symlink", "cache.type names symlink"),
        ("    analytics = false\n", "", "core.analytics is on"),
        ("check_update = false", "check_update = true", "core.check_update is on"),
        ("reflink,copy", "telepathy", "cannot be used"),
    ],
)
def test_what_endangers_data_or_talks_to_others_is_told(tmp_path: Path, old: str, new: str, words: str) -> None:
    (tmp_path / ".dvc").mkdir()
    config = tmp_path / ".dvc/config"
    config.write_text(GOOD)
    assert storage(tmp_path)[0]
    config.write_text(GOOD.replace(old, new))
    good, message = storage(tmp_path)
    assert not good and words in message
    config.write_text(GOOD)
    (tmp_path / ".dvc/config.local").write_text("[cache]\n    type = hardlink\n")
    assert not storage(tmp_path)[0], "a person's own settings count too"


def test_the_projects_own_settings_are_well() -> None:
    assert storage(Path(__file__).parents[1])[0]
