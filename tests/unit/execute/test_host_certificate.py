"""Facts of this machine are found out once, and never taken over from another."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from onward.errors import NotInvariant
from onward.execute.host_certificate import certificate_file, certified, host_key, processor
from onward.execute.invariance import Shapes

FOUND = Shapes(rows={8: (1, 2), 16: (1,)})
KEY = host_key("sha256:abc", threads=2, providers=("cpu",))


def find_out() -> Shapes:
    return FOUND


def known() -> Shapes:
    raise AssertionError("it is known already")


def test_what_was_found_out_once_is_known_at_the_next_start(tmp_path: Path) -> None:
    assert certified(KEY, find_out, cache=tmp_path) == FOUND
    assert certified(KEY, known, cache=tmp_path) == FOUND


@pytest.mark.parametrize(
    "change",
    [{"digest": "sha256:abd"}, {"runtime": "onnxruntime 0.1"}, {"processor": "x"}, {"threads": 1}, {"providers": ()},
     {"method": 0}],
    ids=str,
)  # fmt: skip
def test_another_package_runtime_processor_or_thread_count_is_found_out_anew(
    change: dict[str, object], tmp_path: Path
) -> None:
    certified(KEY, find_out, cache=tmp_path)
    other = Shapes(rows={0: (1, 2, 4)})
    assert certified(msgspec.structs.replace(KEY, **change), lambda: other, cache=tmp_path) == other
    assert certified(KEY, known, cache=tmp_path) == FOUND


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": 3}', b'{"rows": {"8": []}}', b"\xff"])
def test_a_broken_certificate_is_no_fact(content: bytes, tmp_path: Path) -> None:
    certified(KEY, find_out, cache=tmp_path)
    certificate_file(KEY, tmp_path).write_bytes(content)
    assert certified(KEY, find_out, cache=tmp_path) == FOUND
    assert certified(KEY, known, cache=tmp_path) == FOUND


def test_a_certificate_under_the_wrong_name_is_no_fact(tmp_path: Path) -> None:
    certified(KEY, find_out, cache=tmp_path)
    other = msgspec.structs.replace(KEY, threads=9)
    certificate_file(KEY, tmp_path).rename(certificate_file(other, tmp_path))
    assert certified(other, lambda: Shapes(rows={}), cache=tmp_path) == Shapes(rows={})


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "certificates").write_text("a file")
    assert certified(KEY, find_out, cache=tmp_path) == FOUND
    assert "cannot be kept" in caplog.text


def test_those_that_start_together_find_it_out_once(tmp_path: Path) -> None:
    found: list[Shapes] = []
    tried: list[int] = []

    def slowly() -> Shapes:
        tried.append(1)
        time.sleep(0.1)
        return FOUND

    threads = [Thread(target=lambda: found.append(certified(KEY, slowly, cache=tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [FOUND] * 4 and len(tried) == 1


def test_who_waits_for_one_that_fails_finds_it_out_itself(tmp_path: Path) -> None:
    def fail() -> Shapes:
        raise NotInvariant

    with pytest.raises(NotInvariant):
        certified(KEY, fail, cache=tmp_path)
    assert certified(KEY, find_out, cache=tmp_path) == FOUND


def test_a_package_without_digest_is_not_kept(tmp_path: Path) -> None:
    assert certified(msgspec.structs.replace(KEY, digest=""), find_out, cache=tmp_path) == FOUND
    assert list(tmp_path.iterdir()) == []


def test_a_processor_is_known_by_its_name_and_flags_not_by_its_clock(tmp_path: Path) -> None:
    def told(text: str) -> str:
        file = tmp_path / "cpuinfo"
        file.write_text(text)
        return processor(file)

    one = told("model name\t: A\ncpu MHz\t: 2000\nflags\t: avx2 fma\n\nmodel name\t: A\n")
    assert told("model name\t: A\ncpu MHz\t: 3100\nflags\t: avx2 fma\n") == one
    assert told("model name\t: A\nflags\t: avx2 fma avx512f\n") != one
    assert told("model name\t: B\nflags\t: avx2 fma\n") != one
    assert processor(tmp_path / "none") != one
