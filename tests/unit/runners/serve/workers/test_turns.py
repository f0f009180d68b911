"""Two processes never have one conversation at a time; one that is killed has none any more."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from onward.runners.serve.workers.turns import Turns, turns_file

HOLD = """
import sys, time
from onward.runners.serve.workers.turns import Turns
with Turns(int(sys.argv[1])).turn("acme", "c_1"):
    print("mine", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def file() -> Iterator[int]:
    made = turns_file()
    yield made
    os.close(made)


def holder(file: int, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file), str(seconds)], pass_fds=(file,), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    return process


def test_a_conversation_that_another_process_has_is_waited_for_and_others_are_not(file: int) -> None:
    turns = Turns(file)
    with holder(file, 0.3) as process:
        begun_s = time.monotonic()
        for tenant, conversation in (("acme", "c_2"), ("other", "c_1"), ("acm", "ec_1")):
            with turns.turn(tenant, conversation):
                assert time.monotonic() - begun_s < 0.2
        with turns.turn("acme", "c_1"):
            process.wait(5)
            assert time.monotonic() - begun_s > 0.2
    turns.close()


def test_a_process_that_is_killed_has_no_turn_any_more(file: int) -> None:
    turns = Turns(file)
    with holder(file, 60) as process:
        threading.Timer(0.1, process.kill).start()
        with turns.turn("acme", "c_1"):
            pass
    turns.close()


def test_one_conversation_can_be_had_again_and_many_at_a_time(file: int) -> None:
    turns, others = Turns(file), Turns(file)
    with turns.turn("acme", "c_1"), turns.turn("acme", "c_2"), others.turn("acme", "c_3"):
        pass
    with others.turn("acme", "c_1"), others.turn("acme", "c_2"):
        pass
    turns.close()
    others.close()
