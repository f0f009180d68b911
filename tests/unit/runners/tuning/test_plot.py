"""A curve's picture is XML with a line for each setting, whatever the numbers are."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from onward.runners.tuning.plot import curves_svg
from onward.runners.tuning.trial import Point, Setting, Trial


def trial(instances: int, *p99s: float) -> Trial:
    made = Trial(setting=Setting(max_batch_size=8, instances=instances, threads=1))
    made.climbs.append([
        Point(offered_per_s=number * 10.0, p50_ms=1, p99_ms=p99_ms, goodput_per_s=1)
        for number, p99_ms in enumerate(p99s, 1)
    ])  # fmt: skip
    return made


@pytest.mark.parametrize("p99s", [(1, 2, 400), (0.001, 0.002), (float("nan"), 5), (5,), (), (1e5, 1e5)])
def test_each_setting_has_a_line_inside_the_picture(p99s: tuple[float, ...]) -> None:
    trials = [trial(1, *p99s), trial(2, *p99s)]
    root = ElementTree.fromstring(curves_svg(trials, bound_ms=20, best=trials[0].setting, title="a & <b>"))
    lines = [one for one in root if one.tag.endswith("polyline")]
    assert len(lines) == 2 and lines[0].get("stroke-width") == "3"
    width, height = (float(value) for value in str(root.get("viewBox")).split()[2:])
    for line in lines:
        for point in str(line.get("points")).split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width and 0 <= y <= height
    assert any(one.text == "20 ms" for one in root)
