"""A thousand real inputs that no package was packed with, through a browser and a device, against the package."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from onward.package.package import open_package
from onward.runners.agreement.comparison import Answer, compare
from onward.runners.edge.certificate import own_answers
from onward.runners.edge.exporting import PYTHON, WEB, export
from onward.runners.edge.python_folder import answers_in_folder
from onward.runners.edge.web.browser import answers_in_browser, browser

pytestmark = [pytest.mark.weights, pytest.mark.long]

GALLERY = Path("var/repository")
COUNT = 1000
# A browser's runtime is another build, of another version: sums are added up in another order.
BOUND = {PYTHON: 1e-6, WEB: 1e-5}


def photo_crops() -> list[dict[str, Any]]:
    """Parts of the photos that scikit-image and scikit-learn ship, as JPEG and PNG files."""
    from gallery.vision.photos import PHOTOS, read_photo

    source = random.Random(11)
    items: list[dict[str, Any]] = []
    while len(items) < COUNT:
        image = read_photo(PHOTOS[len(items) % len(PHOTOS)])
        side = source.randint(64, min(320, *image.size))
        left, top = source.randint(0, image.width - side), source.randint(0, image.height - side)
        stream = io.BytesIO()
        cut = image.crop((left, top, left + side, top + side)).convert("RGB")
        cut.save(stream, "JPEG" if len(items) % 2 else "PNG")
        items.append({"image": stream.getvalue()})
    return items


def held_out_rows() -> list[dict[str, Any]]:
    """Transactions of the last part of the data, which the model was not trained on."""
    from gallery.fraud.build import held_out_transactions
    from gallery.fraud.fields import FIELDS

    rows = held_out_transactions().features[-COUNT:]
    return [dict(zip(FIELDS, map(float, row), strict=True)) for row in rows]


def sentences() -> list[dict[str, Any]]:
    """Sentences of documentation: this project's own, as prose comes, with code and numbers in it."""
    texts = [
        line.strip()
        for file in sorted(Path("docs").rglob("*.md")) + sorted(Path("gallery").rglob("card.md"))
        for line in file.read_text("utf-8").splitlines()
        if len(line.split()) > 4
    ]
    assert len(texts) >= COUNT
    return [{"text": text} for text in texts[:COUNT]]


ITEMS = {"vision": photo_crops, "fraud": held_out_rows, "intent": sentences, "embed": sentences}


def answers(target: str, folder: Path, items: Sequence[dict[str, Any]]) -> Sequence[Answer]:
    return answers_in_folder(folder, items) if target == PYTHON else answers_in_browser(folder, items).answers


@pytest.mark.parametrize("target", [PYTHON, pytest.param(WEB, marks=pytest.mark.browser)])
@pytest.mark.parametrize("name", sorted(ITEMS))
def test_a_thousand_real_inputs_are_answered_alike(name: str, target: str, tmp_path: Path) -> None:
    if not (GALLERY / name).is_dir():
        pytest.skip(f"{name} is not built: make gallery")
    if target == WEB and browser() is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    made = export(str(GALLERY / name / "1.0.0"), tmp_path / "out", target, inputs=0)
    items = ITEMS[name]()
    expected = own_answers(open_package(GALLERY / name / "1.0.0"), items)
    found = answers(target, tmp_path / "out", items)
    agreement = compare(target, expected, found, tolerance=BOUND[target])
    assert made.package.id.name == name
    assert agreement.agreeing == len(items) >= COUNT, agreement.first
