"""Which code this is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidegate import version


def test_from_a_repository_the_commit_is_said_and_elsewhere_the_version_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (version._ROOT / ".git").exists():
        assert re.fullmatch(r"\d+\.\d+\.\d+\+[0-9a-f]{12}(-dirty)?", version.code_version())
    version.code_version.cache_clear()
    monkeypatch.setattr(version, "_ROOT", tmp_path)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version.code_version())
    version.code_version.cache_clear()
