"""The session: utterances, guesses, turns and barge-in, with a clock of its own and no I/O."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import ExecutionError, Overloaded
from onward.runners.serve.voice.endpointing import CHUNK_SAMPLES, Endpointing, chunks
from onward.runners.serve.voice.session import Session, SessionLimits
from tests.unit.runners.serve.voice.speaking import CHUNK_S, Answer, Close, Stop, Talk, Transcribe, probability, sound

OPTIONS = Endpointing()
GLANCE, SETTLED, HANGOVER = chunks(OPTIONS.glance_ms), chunks(OPTIONS.settled_ms), chunks(OPTIONS.hangover_ms)


def test_silence_asks_for_nothing() -> None:
    talk = Talk()
    assert talk.hears("." * 200) == []


def test_an_utterance_is_transcribed_while_the_hangover_lasts_and_answered_once() -> None:
    talk = Talk()
    talk.hears("...." + "s" * 15 + "." * GLANCE)
    assert talk.told("speech_started") and len(talk.all(Transcribe)) == 1
    talk.transcribes("cancel my subscription")
    assert not talk.all(Answer)
    talk.hears("." * HANGOVER)
    assert [step.text for step in talk.all(Answer)] == ["cancel my subscription"]
    assert [event["text"] for event in talk.told("transcript")] == ["cancel my subscription"]
    assert len(talk.all(Transcribe)) == 1
    assert talk.hears("." * 100) == []


def test_a_whole_sentence_ends_the_utterance_earlier() -> None:
    ended = {}
    for text in ("Yes.", "yes and"):
        talk = Talk()
        talk.hears("s" * 10 + "." * GLANCE)
        talk.transcribes(text)
        ended[text] = GLANCE
        while not talk.all(Answer):
            talk.hears(".")
            ended[text] += 1
    assert ended == {"Yes.": SETTLED, "yes and": HANGOVER}


def test_speech_that_resumes_takes_the_guess_back() -> None:
    talk = Talk()
    talk.hears("s" * 10 + "." * (SETTLED - 1))
    talk.transcribes("I want to cancel.")
    talk.hears("s" * 10)
    assert not talk.all(Answer) and [event["text"] for event in talk.told("partial")] == ["I want to cancel."]
    talk.hears("." * GLANCE)
    talk.transcribes("I want to cancel my subscription.")
    talk.hears("." * HANGOVER)
    assert [step.text for step in talk.all(Answer)] == ["I want to cancel my subscription."]


def test_a_guess_that_comes_back_after_speech_resumed_is_only_a_partial() -> None:
    talk = Talk()
    talk.hears("s" * 10 + "." * GLANCE + "ss")
    talk.transcribes("I want to cancel.")
    talk.hears("." * (SETTLED + 1))
    assert not talk.all(Answer)
    talk.transcribes("I want to cancel it.")
    assert [step.text for step in talk.all(Answer)] == ["I want to cancel it."]


def test_an_utterance_does_not_end_before_its_transcript_is_there() -> None:
    talk = Talk()
    talk.hears("s" * 10 + "." * HANGOVER)
    assert not talk.all(Answer)
    talk.transcribes("yes", after_s=0.3)
    assert [step.text for step in talk.all(Answer)] == ["yes"]


def test_partials_come_while_speech_goes_on_one_at_a_time() -> None:
    talk = Talk()
    talk.hears("s" * 60)
    assert len(talk.all(Transcribe)) == 1  # the first has not come back yet
    talk.transcribes("one")
    talk.hears("s" * 60)
    talk.transcribes("one two")
    assert [event["text"] for event in talk.told("partial")] == ["one", "one two"]


def test_the_sound_to_transcribe_begins_a_little_before_the_speech() -> None:
    talk = Talk()
    talk.hears("." * 50 + "s" * 10 + "." * GLANCE)
    (asked,) = talk.all(Transcribe)
    assert asked.sound.dtype == np.int16
    quiet = int(np.argmax(np.abs(asked.sound) > 1000)) // CHUNK_SAMPLES
    assert 3 <= quiet <= chunks(OPTIONS.preroll_ms)
    assert len(asked.sound) == (quiet + 10 + GLANCE) * CHUNK_SAMPLES


def test_a_noise_without_words_is_told_and_not_answered() -> None:
    talk = Talk()
    talk.hears("s" * 4 + "." * GLANCE)
    talk.transcribes(" ")
    talk.hears("." * HANGOVER)
    assert talk.told("transcript")[0]["text"] == "" and not talk.all(Answer)


def test_the_wait_is_measured_from_the_last_chunk_with_speech() -> None:
    talk = Talk()
    talk.hears("s" * 10)
    ends_s = talk.now_s
    talk.hears("." * GLANCE)
    talk.transcribes("Yes.", after_s=0.0)
    talk.hears("." * (SETTLED - GLANCE))
    turn = talk.all(Answer)[0].turn
    talk.session.understood(turn, talk.now_s + 0.05)
    told = talk.session.sounded(turn, 1.0, talk.now_s + 0.2)
    (timings,) = talk.told("timings", told)
    assert timings["vad_ms"] == pytest.approx(1000 * SETTLED * CHUNK_S, abs=0.2)
    assert timings["transcribe_wait_ms"] == 0
    assert timings["understand_ms"] == pytest.approx(50, abs=0.2)
    assert timings["synthesise_ms"] == pytest.approx(150, abs=0.2)
    assert timings["first_audio_ms"] == pytest.approx(1000 * (talk.now_s + 0.2 - ends_s), abs=0.2)
    assert talk.told("timings", talk.session.sounded(turn, 1.0, talk.now_s + 0.3)) == []


def test_speaking_over_the_reply_stops_it_even_when_all_of_it_has_been_sent() -> None:
    talk = Talk()
    turn = talk.says()
    talk.session.sounded(turn, 3.0, talk.now_s)
    assert talk.told("audio_end", talk.session.finished(turn, talk.now_s))
    steps = talk.hears("." * 30 + "s" * 12)
    assert [step.turn for step in talk.all(Stop, steps)] == [turn]
    (interrupted,) = talk.told("interrupted", steps)
    assert interrupted["heard_ms"] == pytest.approx(1000 * CHUNK_S * (30 + chunks(OPTIONS.barge_in_ms)), abs=1)
    assert [event["type"] for event in talk.told(steps=steps)][:2] == ["interrupted", "speech_started"]


def test_speaking_before_the_first_sound_of_the_reply_stops_it_too() -> None:
    talk = Talk()
    turn = talk.says()
    steps = talk.hears("s" * 12)
    assert [step.turn for step in talk.all(Stop, steps)] == [turn]
    assert talk.told("interrupted", steps)[0]["heard_ms"] == 0


def test_after_the_reply_has_been_heard_speech_interrupts_nothing() -> None:
    talk = Talk()
    turn = talk.says()
    talk.session.sounded(turn, 0.5, talk.now_s)
    talk.session.finished(turn, talk.now_s)
    steps = talk.hears("." * 30 + "s" * 12)
    assert talk.told("speech_started", steps) and not talk.told("interrupted", steps)


def test_a_short_sound_does_not_interrupt() -> None:
    talk = Talk()
    turn = talk.says()
    talk.session.sounded(turn, 5.0, talk.now_s)
    assert talk.hears("...sss......ss...." * 3) == []


def test_without_barge_in_nobody_is_listened_to_during_a_reply() -> None:
    talk = Talk(barge_in=False)
    turn = talk.says()
    talk.session.sounded(turn, 1.0, talk.now_s)
    talk.session.finished(turn, talk.now_s)
    assert talk.hears("s" * 30) == []
    talk.hears("." * 10)
    assert talk.told("speech_started", talk.hears("s" * 10))


def test_what_comes_late_from_a_stopped_turn_is_ignored() -> None:
    talk = Talk()
    turn = talk.says()
    talk.hears("s" * 12)
    assert talk.session.sounded(turn, 1.0, talk.now_s) == []
    assert talk.session.finished(turn, talk.now_s) == []
    assert talk.session.failed(turn, ExecutionError(), talk.now_s) == []


def test_a_failed_reply_is_told_and_the_session_goes_on() -> None:
    talk = Talk()
    turn = talk.says()
    assert talk.told("error", talk.session.failed(turn, ExecutionError(), talk.now_s))[0]["code"] == "EXECUTION_FAILED"
    assert talk.says() == turn + 1


def test_a_partial_that_fails_costs_nothing_but_the_partial() -> None:
    talk = Talk()
    talk.hears("s" * 30)
    assert talk.session.untranscribed(talk.all(Transcribe)[-1].number, Overloaded(), talk.now_s) == []
    talk.hears("." * HANGOVER)
    talk.transcribes("hello")
    assert [step.text for step in talk.all(Answer)] == ["hello"]


def test_a_transcription_that_fails_at_the_end_is_told_and_the_next_utterance_is_heard() -> None:
    talk = Talk()
    talk.hears("s" * 10 + "." * HANGOVER)
    steps = talk.session.untranscribed(talk.all(Transcribe)[-1].number, ExecutionError(), talk.now_s)
    assert talk.told("error", steps)[0]["code"] == "EXECUTION_FAILED"
    assert talk.says() == 1


def test_a_commit_ends_the_utterance_at_once() -> None:
    talk = Talk()
    talk.hears("s" * 10)
    talk.steps += talk.session.commit(talk.now_s)
    talk.transcribes("yes")
    assert [step.text for step in talk.all(Answer)] == ["yes"]
    assert talk.session.commit(talk.now_s) == []


def test_sound_that_stops_coming_ends_the_utterance() -> None:
    talk = Talk()
    talk.hears("s" * 10)
    assert talk.session.tick(talk.now_s + 0.5) == []
    talk.now_s += 1.1
    talk.steps += talk.session.tick(talk.now_s)
    talk.transcribes("yes")
    assert [step.text for step in talk.all(Answer)] == ["yes"]


def test_what_is_typed_is_answered_and_stops_the_reply() -> None:
    talk = Talk()
    turn = talk.says()
    steps = talk.session.say(" hello ", talk.now_s)
    assert [step.turn for step in talk.all(Stop, steps)] == [turn]
    assert [(step.turn, step.text) for step in talk.all(Answer, steps)] == [(turn + 1, "hello")]
    (timings,) = talk.told("timings", talk.session.sounded(turn + 1, 1.0, talk.now_s + 0.2))
    assert "vad_ms" not in timings and timings["first_audio_ms"] == pytest.approx(200, abs=0.2)


def test_a_monologue_is_cut_for_the_model_and_answered_whole() -> None:
    talk = Talk(endpointing=Endpointing(longest_ms=3200))
    talk.hears("s" * 100)
    talk.transcribes("one two")  # a partial
    talk.transcribes("one two three")  # all up to the cut
    talk.hears("s" * 20 + "." * GLANCE)
    talk.transcribes("four five.")
    if not talk.all(Answer):
        talk.hears("." * HANGOVER)
        talk.transcribes("four five.")
    assert [step.text for step in talk.all(Answer)] == ["one two three four five."]
    assert all(len(step.sound) <= 130 * CHUNK_SAMPLES for step in talk.all(Transcribe))


def test_a_session_in_which_nothing_happens_ends() -> None:
    talk = Talk(limits=SessionLimits(idle_s=10))
    talk.hears("." * 100)
    assert talk.session.tick(talk.now_s) == []
    steps = talk.session.tick(talk.now_s + 10)
    assert talk.told("closing", steps)[0]["reason"] == "idle"
    assert [(step.code, step.reason) for step in talk.all(Close, steps)] == [(1000, "idle")]


def test_a_reply_that_is_heard_is_not_idle() -> None:
    talk = Talk(limits=SessionLimits(idle_s=10))
    turn = talk.says()
    talk.session.sounded(turn, 30.0, talk.now_s)
    talk.session.finished(turn, talk.now_s)
    assert talk.session.tick(talk.now_s + 20) == []
    assert talk.session.tick(talk.now_s + 31) == []
    assert talk.all(Close, talk.session.tick(talk.now_s + 41))


def test_sound_that_comes_faster_than_it_can_be_spoken_ends_the_session() -> None:
    session = Session(probability, now_s=0.0, limits=SessionLimits(ahead_s=5))
    for _ in range(4):
        assert session.hear(sound("." * 31), 0.1) == []
    steps = [*session.hear(sound("." * 31), 0.1), *session.hear(sound("." * 31), 0.2)]
    assert [(step.code, step.reason) for step in Talk().all(Close, steps)] == [(1008, "too much sound")]


def test_a_pause_gives_no_credit_for_more_sound_later() -> None:
    session = Session(probability, now_s=0.0, limits=SessionLimits(ahead_s=5))
    session.hear(sound("."), 0.1)
    steps = session.hear(sound("." * 200), 3600.0)
    assert Talk().all(Close, steps)


@settings(max_examples=60, deadline=None)
@given(st.text("s.", min_size=1, max_size=120), st.lists(st.integers(1, 3000), min_size=1, max_size=8))
def test_it_does_not_matter_how_the_sound_is_cut(pattern: str, sizes: list[int]) -> None:
    samples = sound(pattern)

    def heard(pieces: list[int]) -> list[tuple[str, int]]:
        session = Session(probability, now_s=0.0)
        at, index, seen = 0, 0, []
        while at < len(samples):
            size = pieces[index % len(pieces)]
            for step in session.hear(samples[at : at + size], 1.0):
                seen.append((type(step).__name__, len(step.sound) if isinstance(step, Transcribe) else 0))
            at, index = at + size, index + 1
        return seen

    assert heard(sizes) == heard([CHUNK_SAMPLES])


@settings(max_examples=60, deadline=None)
@given(st.text("s.", min_size=40, max_size=300), st.integers(0, 2**31))
def test_every_answer_is_to_a_transcript_of_all_that_was_spoken(pattern: str, seed: int) -> None:
    """Whatever the rhythm of speech, silence and slow transcriptions: nothing is answered twice or in part."""
    random = np.random.default_rng(seed)
    talk = Talk()
    waiting: list[Transcribe] = []
    answered = 0
    for mark in pattern + "." * 60:
        new = talk.hears(mark)
        waiting += talk.all(Transcribe, new)
        assert len(waiting) <= 1
        if waiting and random.random() < 0.3:
            done = waiting.pop()
            spoken = int(np.sum(np.abs(done.sound[::CHUNK_SAMPLES]) > 1000))
            more = talk.session.transcribed(done.number, f"{spoken} words", talk.now_s)
            talk.steps += more
            waiting += talk.all(Transcribe, more)
        for answer in talk.all(Answer)[answered:]:
            answered += 1
            talk.session.finished(answer.turn, talk.now_s)
    assert len(talk.told("transcript")) == len(talk.all(Answer))
    total = sum(int(event["text"].split()[0]) for event in talk.told("transcript"))
    assert total <= pattern.count("s")
