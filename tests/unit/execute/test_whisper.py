"""Whisper: windows together are heard as alone, times are those of the sound, silence and loops are no text."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gallery.transcriber import build as transcriber
from onward.errors import PackageError
from onward.execute.mel import FRAMES_A_SECOND, RATE_HZ
from onward.execute.whisper import (
    MOST_TOKENS,
    PAD_S,
    STEP_S,
    WINDOW_S,
    Heard,
    WhisperBackend,
    _frames,
    _in_sound,
    _most_tokens,
)
from onward.package.manifest import parse_manifest
from onward.prepare.audio import decode_audio
from onward.prepare.transcription import Sound, Stretch, Window
from onward.prepare.transcription import windows as windows_of
from onward.types import Array, CancelToken, Event

MANIFEST = Path("gallery/transcriber/onward.toml")
STAMP_S = 0.02
SAID = ("My coffee was cold.", "The last bus leaves the station at midnight.", "The soup needs more salt.",
        "The garden looks best at the end of May.", "She learned to swim in a lake behind the school.")  # fmt: skip


def window_of(samples: Array) -> Window:
    whole = Stretch(in_window_s=0.0, in_sound_s=0.0, lasts_s=len(samples) / RATE_HZ)
    return Window(samples=samples, stretches=(whole,))


def silence(lasts_s: float) -> Window:
    return window_of(np.zeros(round(lasts_s * RATE_HZ), np.float32))


@st.composite
def stretches(draw: st.DrawFn) -> tuple[Stretch, ...]:
    found, in_window_s, in_sound_s = [], 0.0, 0.0
    for pause_s, lasts_s in draw(st.lists(st.tuples(st.floats(0.35, 60), st.floats(0.2, 10)), min_size=1, max_size=6)):
        in_sound_s += pause_s
        found.append(Stretch(in_window_s=in_window_s, in_sound_s=in_sound_s, lasts_s=lasts_s))
        in_window_s += lasts_s + 0.35
        in_sound_s += lasts_s
    return tuple(found)


@given(stretches(), st.floats(0, 1))
def test_a_time_within_a_stretch_is_that_time_of_the_sound(parts: tuple[Stretch, ...], share: float) -> None:
    for part in parts:
        into_s = share * part.lasts_s
        assert _in_sound(part.in_window_s + into_s, parts) == pytest.approx(part.in_sound_s + into_s)


@given(stretches(), st.lists(st.floats(0, 100), min_size=2))
def test_later_in_the_window_is_never_earlier_in_the_sound_and_always_in_speech(
    parts: tuple[Stretch, ...], times_s: list[float]
) -> None:
    found = [_in_sound(at_s, parts) for at_s in sorted(times_s)]
    assert found == sorted(found)
    for at_s in found:
        assert any(part.in_sound_s <= at_s <= part.in_sound_s + part.lasts_s + 1e-9 for part in parts)


@given(st.floats(0.1, 27.0))
def test_a_window_has_its_silence_in_whole_steps_and_never_more_than_the_model_hears(lasts_s: float) -> None:
    frames = _frames(silence(lasts_s))
    assert frames % (STEP_S * FRAMES_A_SECOND) == 0
    assert (
        frames == WINDOW_S * FRAMES_A_SECOND
        or lasts_s + PAD_S - 0.01 <= frames / FRAMES_A_SECOND < lasts_s + PAD_S + STEP_S
    )
    assert frames / FRAMES_A_SECOND >= lasts_s


def test_tokens_grow_with_the_longest_window_up_to_the_most() -> None:
    few, more = _most_tokens([silence(1.0)]), _most_tokens([silence(1.0), silence(9.0)])
    assert few < more <= _most_tokens([silence(27.0)]) == MOST_TOKENS


def test_windows_longer_than_the_model_hears_are_refused(tmp_path: Path) -> None:
    manifest = parse_manifest(MANIFEST.read_text(encoding="utf-8").replace("window_s = 27.0", "window_s = 60.0"))
    with pytest.raises(PackageError) as refused:
        WhisperBackend.of(tmp_path, manifest)
    assert "window_s" in str(refused.value)


def test_what_is_no_model_is_a_package_error(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="transcription needs the extra `speech`")
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(PackageError):
        WhisperBackend(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("ctranslate2", "soundfile", "soxr", "piper"):
        pytest.importorskip(name, reason="speech needs the extras `speech` and `phonemes`")
    made = tmp_path_factory.mktemp("transcriber") / "1.0.0"
    transcriber.build(made, progress=lambda step, share: None)
    return made


@pytest.fixture(scope="module")
def backend(folder: Path) -> Iterator[WhisperBackend]:
    made = WhisperBackend(folder, threads=2)
    yield made
    made.close()
    made.close()


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Array]:
    """What the voice Joe says of each text: FP32 at 16 kHz."""
    return [decode_audio(transcriber.spoken(text), rate_hz=RATE_HZ, max_s=60) for text in SAID]


def heard(backend: WhisperBackend, *windows: Window) -> list[Event]:
    sound = Sound(audio_s=sum(len(one.samples) for one in windows) / RATE_HZ, windows=windows)
    return list(backend.stream(sound, CancelToken()))


def text_of(events: Sequence[Event]) -> str:
    return str(events[-1].attributes["answer"]["text"])


@pytest.mark.weights
def test_a_batch_of_windows_hears_what_each_alone_hears(backend: WhisperBackend, clips: list[Array]) -> None:
    windows = [window_of(clip) for clip in clips]
    same = [one for one in windows if _frames(one) == _frames(windows[0])]
    assert len(same) >= 3
    together = backend._hear(same)
    for window, one in zip(same, together, strict=True):
        (alone,) = backend._hear([window])
        assert list(one.tokens) == list(alone.tokens)


@pytest.mark.weights
def test_streams_at_once_hear_what_each_alone_hears(backend: WhisperBackend, clips: list[Array]) -> None:
    def text(at: int) -> str:
        return text_of(heard(backend, window_of(clips[at])))

    assert [text(at) for at in range(len(SAID))] == list(SAID)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, [*range(len(SAID))] * 4)) == list(SAID) * 4


@pytest.mark.weights
def test_windows_are_told_one_by_one_and_their_text_is_the_whole(backend: WhisperBackend, clips: list[Array]) -> None:
    events = heard(backend, *(window_of(clip) for clip in clips))
    deltas, end = events[:-1], events[-1].attributes["answer"]
    assert [event.kind for event in events] == ["delta"] * len(SAID) + ["end"]
    assert "".join(event.text for event in deltas) == end["text"] == " ".join(SAID)
    assert [part for event in deltas for part in event.attributes["segments"]] == end["segments"]


@pytest.mark.weights
def test_times_are_those_of_the_sound(backend: WhisperBackend, clips: list[Array]) -> None:
    pause = np.zeros(10 * RATE_HZ, np.float32)
    first, second = clips[0], clips[2]
    samples = np.concatenate([pause, first, pause, second, pause])
    second_s = 20 + len(first) / RATE_HZ
    speech = [(10.0, 10 + len(first) / RATE_HZ), (second_s, second_s + len(second) / RATE_HZ)]
    for window_s, count in ((27.0, 1), (3.0, 2)):
        windows = windows_of(samples, speech, rate_hz=RATE_HZ, window_s=window_s)
        assert len(windows) == count
        parts = heard(backend, *windows)[-1].attributes["answer"]["segments"]  # the model may write both as one
        assert " ".join(part["text"] for part in parts) == f"{SAID[0]} {SAID[2]}"
        assert parts[0]["start"] == pytest.approx(10.0, abs=0.5)
        assert parts[-1]["end"] == pytest.approx(speech[1][1], abs=0.5)
        times = [at_s for part in parts for at_s in (part["start"], part["end"])]
        assert times == sorted(times)


@pytest.mark.weights
def test_pure_silence_is_no_text(backend: WhisperBackend) -> None:
    for lasts_s in (0.5, 3.0, 20.0):
        (end,) = heard(backend, silence(lasts_s))
        assert end.attributes["answer"]["text"] == "" and end.attributes["answer"]["segments"] == []


@pytest.mark.weights
def test_no_windows_are_an_empty_text(backend: WhisperBackend) -> None:
    (end,) = heard(backend)
    assert end.kind == "end" and end.attributes["answer"]["text"] == ""


@pytest.mark.weights
def test_cancelled_it_ends_without_an_end_and_the_next_is_heard(backend: WhisperBackend, clips: list[Array]) -> None:
    cancel = CancelToken()
    sound = Sound(audio_s=60.0, windows=tuple(window_of(clip) for clip in clips) * 4)
    stream = backend.stream(sound, cancel)
    assert next(stream).kind == "delta"
    cancel.cancel()
    assert list(stream) == []
    assert text_of(heard(backend, window_of(clips[0]))) == SAID[0]


def tokens_of(backend: WhisperBackend, *parts: float | str) -> list[int]:
    """Texts and time stamps in seconds as the model writes them."""
    found: list[int] = []
    for part in parts:
        if isinstance(part, str):
            found += backend._tokenizer.encode(part, add_special_tokens=False).ids
        else:
            found.append(backend._first_stamp + round(part / STAMP_S))
    return found


def segments(backend: WhisperBackend, *parts: float | str, **sure: float) -> list[dict[str, Any]]:
    of = {"log_probability": -0.2, "silence": 0.0} | sure
    return backend._segments(Heard(tokens=tokens_of(backend, *parts), **of), silence(10.0))


@pytest.mark.weights
def test_time_stamps_part_a_text(backend: WhisperBackend) -> None:
    assert segments(backend, 0.0, " One.", 2.0, 2.5, " Two.", 4.0) == [
        {"start": 0.0, "end": 2.0, "text": "One."}, {"start": 2.5, "end": 4.0, "text": "Two."},
    ]  # fmt: skip


@pytest.mark.weights
def test_a_text_without_stamps_lasts_to_the_end_and_none_ends_after_it(backend: WhisperBackend) -> None:
    assert segments(backend, " One.") == [{"start": 0.0, "end": 10.0, "text": "One."}]
    assert segments(backend, 0.0, " One.", 28.0) == [{"start": 0.0, "end": 10.0, "text": "One."}]
    assert segments(backend, 5.0, " One.", 3.0)[0]["end"] >= 5.0


@pytest.mark.weights
@pytest.mark.parametrize("text", [" ...", " -", " ♪", ""])
def test_marks_without_a_letter_are_no_text(backend: WhisperBackend, text: str) -> None:
    assert segments(backend, 0.0, text, 2.0) == []


@pytest.mark.weights
def test_what_is_surely_or_unsurely_silent_is_no_text_and_what_is_said_surely_is(backend: WhisperBackend) -> None:
    said = (0.0, " you", 2.0)
    assert segments(backend, *said, silence=0.95) == []
    assert segments(backend, *said, silence=0.7, log_probability=-1.5) == []
    assert segments(backend, *said, silence=0.7, log_probability=-0.5)
    assert segments(backend, *said, silence=0.1, log_probability=-1.5)


@pytest.mark.weights
def test_a_text_in_circles_is_a_loop_and_a_plain_one_is_not(backend: WhisperBackend) -> None:
    def loops(text: str) -> bool:
        return backend._loops(Heard(tokens=tokens_of(backend, text), log_probability=-0.1, silence=0.0))

    assert loops(" and then" * 40)
    assert not any(loops(text) for text in (*SAID, " ".join(SAID), ""))


@pytest.mark.weights
def test_sound_counts_ten_tokens_a_second(backend: WhisperBackend) -> None:
    assert backend.admit(Sound(audio_s=12.34, windows=())).prompt_tokens == 124


@pytest.mark.weights
def test_closing_ends_its_thread(folder: Path) -> None:
    def threads() -> int:
        return sum(thread.name == "onward-whisper" for thread in threading.enumerate())

    before = threads()
    made = WhisperBackend(folder, threads=1)
    assert threads() == before + 1
    made.close()
    made.close()
    assert threads() == before
