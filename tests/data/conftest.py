"""Fixtures of the data tests."""

from pathlib import Path

import pytest

from tests.data.workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """An empty project folder with the real settings."""
    return Workshop(tmp_path)
