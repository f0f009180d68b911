"""What the tests of scoring jobs share: the tiny package; PostgreSQL for those that ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="scoring jobs need the extra `batch`")

from onward.testing import tiny_package
from tests.postgres import postgres, postgres_url  # noqa: F401


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that answers y = 2x + 1."""
    return tiny_package(tmp_path_factory.mktemp("packages") / "tiny" / "1.0.0")


@pytest.fixture(autouse=True)
def quick_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed of batch sizes is tried for a moment only: it is not what is tested."""
    monkeypatch.setattr("onward.runners.batch.plan._TRIAL_S", 0.002)
