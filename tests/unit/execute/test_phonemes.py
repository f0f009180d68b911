"""The phonemiser's process: it answers each thread its own, comes back when it dies, and ends with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from onward.errors import ExecutionError, MissingExtra
from onward.execute import phonemes
from onward.execute.phonemes import Phonemiser

pytest.importorskip("piper", reason="phonemes need the extra `phonemes`")

VOICE = "en-us"
WAIT_S = 10.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Phonemiser]:
    made = Phonemiser()
    yield made
    made.close()


@pytest.fixture
def phonemiser() -> Iterator[Phonemiser]:
    made = Phonemiser()
    yield made
    made.close()


def said(phonemiser: Phonemiser, text: str) -> str:
    return "|".join("".join(sentence) for sentence in phonemiser.phonemes(VOICE, text))


def ended(pid: int) -> bool:
    """Whether a process ends within some seconds; one that nobody has waited for yet has."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_sentences_become_phonemes_each_its_own_list(shared: Phonemiser) -> None:
    found = shared.phonemes(VOICE, "Hello world. Goodbye!")
    assert len(found) == 2 and all(isinstance(one, str) for sentence in found for one in sentence)
    assert "".join(found[0]).startswith("həl") and found[1][-1] == "!"


def test_the_same_text_is_the_same_and_another_is_another(shared: Phonemiser) -> None:
    assert said(shared, "The soup is cold.") == said(shared, "The soup is cold.") != said(shared, "The soup is hot.")


def test_lines_do_not_part_what_is_asked(shared: Phonemiser) -> None:
    assert said(shared, "The soup\nis cold.") == said(shared, "The soup is cold.")


def test_many_threads_have_each_their_own_answer(shared: Phonemiser) -> None:
    texts = [f"Number {at} is called." for at in range(40)]
    alone = [said(shared, text) for text in texts]
    assert len(set(alone)) == len(texts)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: said(shared, text), texts * 3)) == alone * 3


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud800", "漢字 ♪ 🎵", "a" * 20_000, '"}\n{"voice": 3}'])
def test_odd_texts_are_answered_or_refused_and_the_next_is_answered(shared: Phonemiser, text: str) -> None:
    pid, before = shared.pid, said(shared, "Hello.")
    with contextlib.suppress(ExecutionError):
        shared.phonemes(VOICE, text)
    assert said(shared, "Hello.") == before
    assert pid in (0, shared.pid)  # 0: it had not been started


def test_an_unknown_voice_is_an_error_and_the_process_lives_on(shared: Phonemiser) -> None:
    before, pid = said(shared, "Hello."), shared.pid
    with pytest.raises(ExecutionError):
        shared.phonemes("xx-nowhere", "Hello.")
    assert said(shared, "Hello.") == before and shared.pid == pid


def test_killed_it_answers_again(phonemiser: Phonemiser) -> None:
    before, pid = said(phonemiser, "Hello."), phonemiser.pid
    os.kill(pid, signal.SIGKILL)
    assert said(phonemiser, "Hello.") == before and phonemiser.pid not in (0, pid)
    assert ended(pid)


def test_killed_under_load_every_thread_has_its_answer(phonemiser: Phonemiser) -> None:
    texts = [f"Number {at} is called." for at in range(20)]
    alone = [said(phonemiser, text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(said, phonemiser, text) for text in texts * 2]
        os.kill(phonemiser.pid, signal.SIGKILL)
        assert [answer.result(WAIT_S) for answer in answers] == alone * 2


def test_one_that_hangs_is_replaced(phonemiser: Phonemiser, monkeypatch: pytest.MonkeyPatch) -> None:
    before, pid = said(phonemiser, "Hello."), phonemiser.pid
    monkeypatch.setattr(phonemes, "TIMEOUT_S", 0.5)
    os.kill(pid, signal.SIGSTOP)
    assert said(phonemiser, "Hello.") == before and ended(pid)


def test_one_that_always_hangs_is_an_error_in_time_and_leaves_no_process(
    phonemiser: Phonemiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import time; print('{\"ready\": true}', flush=True); time.sleep(600)"
    monkeypatch.setattr(phonemes, "_BOOT", program)
    monkeypatch.setattr(phonemes, "TIMEOUT_S", 0.2)
    started_s = time.monotonic()
    with pytest.raises(ExecutionError, match="no answer within"):
        phonemiser.phonemes(VOICE, "Hello.")
    assert time.monotonic() - started_s < WAIT_S and phonemiser.pid == 0


@pytest.mark.parametrize(
    "program", ["", "print('no JSON', flush=True)", "print('3', flush=True)", "raise SystemExit(3)"]
)
def test_a_program_that_does_not_start_is_an_error(
    phonemiser: Phonemiser, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(phonemes, "_BOOT", program)
    with pytest.raises(ExecutionError, match="does not start"):
        phonemiser.start()
    assert phonemiser.pid == 0


def test_without_espeak_it_says_which_extra_is_missing(phonemiser: Phonemiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phonemes, "_BOOT", "import sys; sys.modules['piper'] = None\n" + phonemes._BOOT)
    with pytest.raises(MissingExtra, match=r"onward\[phonemes\]"):
        phonemiser.start()
    assert phonemiser.pid == 0


def test_closed_it_has_no_process_and_answers_no_more() -> None:
    phonemiser = Phonemiser()
    phonemiser.start()
    pid = phonemiser.pid
    assert pid
    phonemiser.close()
    phonemiser.close()
    assert ended(pid) and phonemiser.pid == 0
    with pytest.raises(ExecutionError):
        phonemiser.phonemes(VOICE, "Hello.")


def test_it_ends_with_its_parent_however_that_ends() -> None:
    program = (
        "import time; from onward.execute.phonemes import Phonemiser; p = Phonemiser(); p.start();"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    assert ended(pid)


def test_nothing_of_espeak_is_loaded_here_and_nothing_of_our_environment_there(
    phonemiser: Phonemiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONWARD_TEST_SECRET", "hunter2")
    said(phonemiser, "Hello.")
    assert b"hunter2" not in Path(f"/proc/{phonemiser.pid}/environ").read_bytes()
    program = (
        "import pathlib, sys; from onward.execute.phonemes import Phonemiser; p = Phonemiser();"
        "p.phonemes('en-us', 'Hello.'); p.close();"
        "assert not any('piper' == name.split('.')[0] for name in sys.modules);"
        "assert 'espeak' not in pathlib.Path('/proc/self/maps').read_text()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
