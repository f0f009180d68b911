"""The gallery package `moderation`, held against the original model and the preparation of its own package.

No photo that is unsafe for work lies in a test or a package, so these tests prove that the scores are the original
model's; how much that model catches they cannot say.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from gallery.fetch import load_source
from gallery.moderation import build as moderation
from gallery.vision.photos import PHOTOS, Photo, read_photo
from onward.errors import ParityError
from onward.package.pack import assemble
from onward.pipeline import Pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("moderation")
    moderation.build(out, progress=lambda step, done: None)
    return out


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline(assemble(folder))


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    return onnx.load(str(load_source(moderation.SOURCE)[moderation.WEIGHTS]))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_golden_examples_hold(pipeline: Pipeline) -> None:
    assert pipeline.check_examples() == len(PHOTOS)


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_the_score_is_the_originals(pipeline: Pipeline, original: onnx.ModelProto, photo: Photo) -> None:
    image = read_photo(photo)
    running = moderation.session(original)
    wanted = running.run(None, {running.get_inputs()[0].name: moderation.original_input(image)})[0][0]
    result = pipeline(png(image))
    assert np.abs(result.tensors["scores"][0] - wanted).max() <= 1e-4
    assert result.answer["nsfw"] == pytest.approx(float(wanted[1]), abs=1e-4)


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_ordinary_photos_are_safe(pipeline: Pipeline, photo: Photo) -> None:
    answer = pipeline(png(read_photo(photo))).answer
    assert answer["label"] == "sfw"
    assert answer["nsfw"] < 0.1
    assert [entry["label"] for entry in answer["labels"]] == ["sfw", "nsfw"]
    assert sum(entry["score"] for entry in answer["labels"]) == pytest.approx(1, abs=1e-5)


def test_leaving_out_the_originals_jpeg_round_trip_moves_scores_little(
    pipeline: Pipeline, original: onnx.ModelProto
) -> None:
    running = moderation.session(original)
    for photo in PHOTOS:
        image = read_photo(photo)
        stretched = image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
        with Image.open(io.BytesIO(jpeg(stretched))) as again:
            bgr = np.asarray(again, dtype=np.float32)[:, :, ::-1] - np.array(moderation.MEAN_BGR, dtype=np.float32)
        wanted = running.run(None, {running.get_inputs()[0].name: np.ascontiguousarray(bgr)[np.newaxis]})[0][0, 1]
        assert pipeline(png(image)).answer["nsfw"] == pytest.approx(float(wanted), abs=0.02)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_preparation_is_the_originals_but_for_single_levels(folder: Path, photo: Photo) -> None:
    image = read_photo(photo)
    found = ort.InferenceSession(str(folder / "prepare.onnx")).run(None, {"pixels": np.asarray(image)})[0]
    levels = np.abs(found - moderation.original_input(image))
    assert levels.max() <= 1
    assert levels.mean() <= 0.001


def test_a_changed_weight_is_noticed(original: onnx.ModelProto) -> None:
    from onnx import numpy_helper

    packed = moderation.rename_and_update(original)
    largest = max(packed.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.01), largest.name))
    with pytest.raises(ParityError):
        moderation.compare(original, packed, moderation.compared_inputs()[:8])


def test_the_comparison_has_at_least_64_inputs() -> None:
    inputs = moderation.compared_inputs()
    assert len(inputs) >= 64
    assert len({image.tobytes() for image in inputs}) == len(inputs)


def test_a_row_does_not_depend_on_who_shares_its_batch(folder: Path) -> None:
    session = ort.InferenceSession(str(folder / "model.onnx"))
    rows = np.concatenate([moderation.original_input(read_photo(photo)) for photo in PHOTOS])
    together = session.run(["nsfw"], {"image": rows})[0]
    alone = [session.run(["nsfw"], {"image": rows[index : index + 1]})[0][0] for index in range(len(rows))]
    assert np.abs(together - np.array(alone)).max() <= 1e-6


def test_the_weights_licence_travels_with_the_package(folder: Path) -> None:
    texts = [file.read_text("utf-8") for file in (folder / "licences").iterdir()]
    assert any("Yahoo" in text and "Redistribution and use" in text for text in texts)
