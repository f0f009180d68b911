"""The facts that every target writes down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onward.cli.serving import serve
from onward.runners.cloud.deployment import Deployment
from tests.unit.runners.cloud.conftest import Make


def test_the_command_is_one_that_onward_serve_understands(deployment: Make) -> None:
    _, name, *arguments = deployment().command(repository="repository")
    assert name == "serve"
    taken = serve.make_context("serve", arguments, resilient_parsing=True).params
    assert (taken["host"], taken["port"], taken["admin_port"], taken["insecure"]) == ("0.0.0.0", 8000, 8002, True)
    assert (taken["watch_interval"], taken["drain_grace"]) == (0.0, 5.0)


@pytest.mark.parametrize(
    ("peak_mib", "asked_mib", "limit_mib"), [(100, 0, 192), (128, 0, 192), (129, 0, 256), (100, 500, 512)]
)
def test_memory_is_what_was_asked_for_or_half_more_than_measured(
    deployment: Make, peak_mib: int, asked_mib: int, limit_mib: int
) -> None:
    made: Deployment = deployment(memory_bytes=asked_mib << 20)
    made = replace(made, sizing=replace(made.sizing, peak_bytes=peak_mib << 20))
    assert made.memory_limit_bytes == limit_mib << 20


@pytest.mark.parametrize(("start_s", "limit_s"), [(0.5, 60), (6.0, 60), (30.0, 300)])
def test_a_slow_start_gets_ten_times_its_own_time(deployment: Make, start_s: float, limit_s: int) -> None:
    made: Deployment = deployment()
    assert replace(made, sizing=replace(made.sizing, start_s=start_s)).start_limit_s == limit_s


def test_the_slowest_model_says_when_a_queue_is_long_and_tokens_have_their_own(deployment: Make) -> None:
    made: Deployment = deployment()
    (tiny,) = made.packages
    others = (tiny, replace(tiny, name="slow"), replace(tiny, name="chat", queue_tokens=8192))
    sizing = replace(made.sizing, answers_per_s={"tiny": 1000.0, "slow": 40.0, "chat": 2.0})
    metrics = replace(made, packages=others, sizing=sizing).queue_metrics
    assert metrics == {"onward_queue_rows": 4, "onward_queued_tokens": 4096}


def test_a_target_lies_well_within_the_queue_or_it_would_never_be_reached(deployment: Make) -> None:
    made: Deployment = deployment()
    fast = replace(made.sizing, answers_per_s={"tiny": 50_000.0})
    assert made.packages[0].queue_rows == 2048
    assert replace(made, sizing=fast).queue_metrics == {"onward_queue_rows": 512}


def test_what_was_not_measured_has_a_cautious_queue(deployment: Make) -> None:
    made: Deployment = deployment()
    assert replace(made, sizing=replace(made.sizing, answers_per_s={})).queue_metrics == {"onward_queue_rows": 16}
