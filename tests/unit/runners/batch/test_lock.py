"""The lock: one holder at a time, whoever comes in between, and nothing is left behind."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from onward.runners.batch.errors import OutputBusy
from onward.runners.batch.lock import locked


def test_one_holds_it_and_others_are_told_the_output(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", output="scores.csv"):
        with pytest.raises(OutputBusy, match=r"scores\.csv"), locked(tmp_path / "lock", output="scores.csv"):
            pass
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()
    with locked(tmp_path / "lock", output=""):
        pass


def test_of_many_that_take_turns_never_two_are_inside(tmp_path: Path) -> None:
    inside = 0
    entered = 0
    together = []
    counting = threading.Lock()

    def contend() -> None:
        nonlocal inside, entered
        for _ in range(300):
            try:
                with locked(tmp_path / "lock", output=""):
                    with counting:
                        inside += 1
                        entered += 1
                        together.append(inside)
                    with counting:
                        inside -= 1
            except OutputBusy:
                pass

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entered and max(together) == 1


def test_it_is_let_go_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", output=""):
        raise ZeroDivisionError
    with locked(tmp_path / "lock", output=""):
        pass
