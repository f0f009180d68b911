"""Any bytes are read or refused: those kept in `corpus/` on every run, new ones for ten minutes in `make test-all`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seconds_of

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
# Starlette leaves the file of a form that ends in the middle to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def kept(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_that_was_kept_is_read_or_refused(target: str) -> None:
    assert kept(target)
    for file in kept(target):
        TARGETS[target](file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_input_is_read_or_refused(target: str) -> None:
    """Without atheris: an input that was kept, cut, doubled, or with some bytes changed."""
    files = [file.read_bytes() for file in kept(target)]

    @given(data=st.sampled_from(files), at=st.integers(0, 1 << 16), new=st.binary(max_size=4), cut=st.integers(0, 64))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def run(data: bytes, at: int, new: bytes, cut: int) -> None:
        place = at % (len(data) + 1)
        TARGETS[target](data[:place] + new + data[place + cut :])

    run()


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_falls_out_of_a_target_for_minutes(tmp_path: Path, target: str) -> None:
    pytest.importorskip("atheris")
    found, seconds = tmp_path / "found", seconds_of(target)
    found.mkdir()
    options = [f"-max_total_time={seconds}", "-max_len=32768", "-timeout=10", "-rss_limit_mb=3072"]
    command = [sys.executable, str(HERE / "fuzz.py"), target, str(found), str(CORPUS / target), *options]
    command.append(f"-artifact_prefix={tmp_path}/")
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    made = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 300, env=environment)
    assert made.returncode == 0, made.stderr[-4000:]
