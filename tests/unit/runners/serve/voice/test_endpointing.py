"""The gate: when speech begins and how long it has been silent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onward.runners.serve.voice.endpointing import Endpointing, SpeechGate, chunks

OPTIONS = Endpointing()


def opened_at(probabilities: list[float], begin_ms: float = OPTIONS.begin_ms) -> int | None:
    gate = SpeechGate(OPTIONS)
    return next((at for at, one in enumerate(probabilities) if gate.hear(one, begin_ms=begin_ms)), None)


def test_speech_begins_after_enough_of_it_and_a_click_is_not_enough() -> None:
    assert opened_at([0.9] * 10) == chunks(OPTIONS.begin_ms) - 1
    assert opened_at([0.9, 0.9, 0.1, 0.1, 0.1, 0.9, 0.1]) is None


def test_a_dip_within_the_first_word_does_not_start_the_count_anew() -> None:
    assert opened_at([0.9, 0.9, 0.1, 0.9, 0.9]) == 4


def test_barging_in_takes_more_speech() -> None:
    assert opened_at([0.9] * 20, OPTIONS.barge_in_ms) == chunks(OPTIONS.barge_in_ms) - 1 > chunks(OPTIONS.begin_ms)


def test_within_an_utterance_what_is_less_than_sure_still_counts_as_speech() -> None:
    gate = SpeechGate(OPTIONS)
    while not gate.hear(0.9, begin_ms=96):
        pass
    between = (OPTIONS.onset + OPTIONS.release) / 2
    for _ in range(5):
        gate.hear(between, begin_ms=96)
    assert gate.silent == 0
    gate.hear(0.1, begin_ms=96)
    assert gate.silent == 1
    assert opened_at([between] * 50) is None


@given(st.lists(st.floats(0, 1), max_size=60))
def test_silence_is_counted_from_the_last_chunk_of_speech(probabilities: list[float]) -> None:
    gate = SpeechGate(OPTIONS)
    while not gate.hear(1.0, begin_ms=96):
        pass
    for one in probabilities:
        gate.hear(one, begin_ms=96)
    spoken = [at for at, one in enumerate(probabilities) if one >= OPTIONS.release]
    assert gate.silent == len(probabilities) - 1 - (spoken[-1] if spoken else -1)
