"""The gallery package `ocr`: pages whose text is known, read by the package as it is served."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from gallery.ocr import boxes
from gallery.ocr import build as ocr
from gallery.ocr.evaluate import quality, resident_mb
from gallery.ocr.pages import PAGE_LINES, character_errors, invoice, scanned_page
from onward.errors import CorruptMedia
from onward.package.pack import assemble
from onward.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    out = tmp_path_factory.mktemp("ocr")
    ocr.build(out, progress=lambda step, share: None)
    with Pipeline(assemble(out)) as opened:
        yield opened


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_scanned_page_is_read_without_an_error(pipeline: Pipeline) -> None:
    answer = pipeline(scanned_page().data).answer
    assert tuple(answer["text"].split("\n")) == PAGE_LINES
    assert [line["text"] for line in answer["lines"]] == list(PAGE_LINES)


def test_lines_have_scores_and_boxes_where_they_stand(pipeline: Pipeline) -> None:
    page = invoice(3)
    image = np.asarray(Image.open(io.BytesIO(page.data)))
    for line in pipeline(page.data).answer["lines"]:
        left, top, right, bottom = line["box"]
        assert 0 <= left < right <= image.shape[1]
        assert 0 <= top < bottom <= image.shape[0]
        assert image[top:bottom, left:right].min() < 100  # there is ink in it
        assert 0.5 <= line["score"] <= 1


def test_invoices_that_were_not_seen_before_are_read(pipeline: Pipeline) -> None:
    clean = quality(pipeline, [invoice(number) for number in range(500, 506)])
    worn = quality(pipeline, [invoice(number, worn=True) for number in range(600, 606)])
    assert clean["character_accuracy"] >= 0.995
    assert clean["line_accuracy"] >= 0.95
    assert worn["character_accuracy"] >= 0.98


def test_a_page_without_text_has_no_lines(pipeline: Pipeline) -> None:
    for pixels in (np.full((120, 200, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)):
        assert pipeline(png(pixels)).answer == {"text": "", "lines": []}


def test_what_is_no_picture_is_refused_and_the_next_one_is_read(pipeline: Pipeline) -> None:
    with pytest.raises(CorruptMedia):
        pipeline(b"%PDF-1.7 no picture")
    assert pipeline(invoice(1).data).answer["lines"]


def test_pictures_of_several_sizes_are_answered_together(pipeline: Pipeline) -> None:
    pages = [invoice(7), scanned_page()]
    for page, result in zip(pages, pipeline.batch([page.data for page in pages]), strict=True):
        assert character_errors("\n".join(page.lines), result.answer["text"]) <= 2


def test_golden_examples_hold(pipeline: Pipeline) -> None:
    assert pipeline.check_examples() == ocr.EXAMPLES + 1


def test_the_process_stays_small(pipeline: Pipeline) -> None:
    pipeline(scanned_page().data)
    pid = pipeline.model.pid  # type: ignore[attr-defined]
    assert resident_mb(pid)[0] < 600


def test_components_are_those_that_touch_even_at_a_corner() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1]], dtype=bool)
    labels, count = boxes.components(mask)
    assert count == 4
    assert labels[0, 0] == labels[1, 1] != labels[0, 3] == labels[1, 3]
    assert labels[3, 0] == labels[3, 1] != labels[3, 3]
    assert (labels > 0).tolist() == mask.tolist()


def test_a_u_shape_is_one_component() -> None:
    mask = np.array([[1, 0, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)
    assert boxes.components(mask)[1] == 1


def test_boxes_grow_around_their_core_and_faint_ones_are_left_out() -> None:
    likely = np.zeros((60, 200), dtype=np.float32)
    likely[10:20, 20:180] = 0.9
    likely[40:50, 20:180] = 0.4
    (box,) = boxes.boxes_of(likely)
    left, top, right, bottom = box
    assert left < 20 and top < 10 and right > 180 and bottom > 20
    assert bottom < 40


def test_boxes_are_read_row_by_row_from_the_left() -> None:
    found = np.array([[300, 12, 400, 30], [10, 50, 90, 70], [10, 10, 200, 30]])
    rows = boxes.in_reading_order(found)
    assert [[int(box[0]) for box in row] for row in rows] == [[10, 300], [10]]
