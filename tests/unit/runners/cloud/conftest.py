"""A deployment of one small package, with figures as if it had been measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onward.runners.cloud.deployment import Deployment, Sizing
from onward.runners.cloud.packages import collect
from onward.testing import tiny_package

MEASURED = Sizing(measured=True, peak_bytes=170 << 20, start_s=1.2, cores=2, answers_per_s={"tiny": 1200.0})
Make = Callable[..., Deployment]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed package."""
    return tiny_package(tmp_path_factory.mktemp("repository") / "tiny" / "1.0.0")


@pytest.fixture
def deployment(tiny: Path) -> Make:
    """Makes a deployment of the tiny package; `decides=True` as if it had a policy."""

    def make(*, decides: bool = False, providers: tuple[str, ...] = ("cpu",), **facts: Any) -> Deployment:
        packages = tuple(
            replace(one, decides=decides, providers=providers, extras=("decide",) if decides else ())
            for one in collect(str(tiny))
        )
        usual = {"name": "onward-tiny", "image": "onward-tiny:1.0.0-0123456789ab", "base": "python:3.11-slim"}
        return Deployment(packages=packages, sizing=MEASURED, **(usual | facts))

    return make
