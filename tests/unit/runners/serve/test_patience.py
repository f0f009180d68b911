"""How long a client may take."""

from __future__ import annotations

from onward.runners.serve.patience import HEAD_S, LAST_SILENCE_S, LEAST_BYTES_PER_S, SILENCE_S, UNREAD_S, Patience


def test_a_head_has_its_time_from_its_first_byte_however_often_more_of_it_comes() -> None:
    patience = Patience()
    patience.hear(100.0, 1)
    patience.begin()
    for second in range(int(HEAD_S)):
        assert not patience.has_run_out(100.0 + second, in_body=False)
        patience.hear(100.0 + second, 1)
    assert "head" in patience.has_run_out(100.0 + HEAD_S, in_body=False)


def test_a_body_may_pause_but_not_for_long() -> None:
    patience = Patience()
    patience.hear(100.0, 100)
    patience.begin()
    assert not patience.has_run_out(100.0 + SILENCE_S - 0.1, in_body=True)
    assert "silence" in patience.has_run_out(100.0 + SILENCE_S, in_body=True)


def test_a_body_has_to_come_at_a_rate_that_slow_lines_can_do() -> None:
    slow, steady = Patience(), Patience()
    for patience in (slow, steady):
        patience.hear(100.0, 1)
        patience.begin()
    ended = None
    for second in range(1, 600):
        slow.hear(100.0 + second, LEAST_BYTES_PER_S // 2)
        steady.hear(100.0 + second, LEAST_BYTES_PER_S)
        assert not steady.has_run_out(100.0 + second, in_body=True)
        if ended is None and slow.has_run_out(100.0 + second, in_body=True):
            ended = second
    assert ended is not None and SILENCE_S < ended <= 2 * SILENCE_S + 1


def test_time_in_which_nobody_listened_is_not_the_clients() -> None:
    patience = Patience()
    patience.hear(100.0, 1)
    patience.begin()
    patience.wait_no_more(500.0)
    assert not patience.has_run_out(501.0, in_body=True) and not patience.has_run_out(501.0, in_body=False)


def test_a_client_that_reads_a_little_is_waited_for_and_one_that_reads_nothing_is_not() -> None:
    patience = Patience()
    for second in range(200):
        assert not patience.is_unread(100.0 + second, 70_000 - second)
    assert not patience.is_unread(300.0, 0)
    assert not patience.is_unread(400.0, 5)
    assert not patience.is_unread(400.0 + UNREAD_S - 1, 5)
    assert patience.is_unread(400.0 + UNREAD_S, 5)


def test_while_a_server_drains_a_body_may_pause_for_seconds_only() -> None:
    patience = Patience()
    patience.hear(100.0, 100)
    patience.begin()
    patience.run_short()
    assert not patience.has_run_out(100.0 + LAST_SILENCE_S - 0.1, in_body=True)
    assert "silence" in patience.has_run_out(100.0 + LAST_SILENCE_S, in_body=True)
    patience.hear(102.0, 100)
    assert not patience.has_run_out(104.0, in_body=True)
