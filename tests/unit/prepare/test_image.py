"""Every kind of image file becomes upright 8-bit RGB over white, and nothing too large is decoded."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onward.errors import CorruptMedia, InputError, MissingInput, TooLarge, UnsupportedMedia, WrongDatatype
from onward.prepare.image import MAX_SIDE, DecodeImagePreparation, decode_image
from onward.types import Array, Blob, Field

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
FIELD = Field(name="photo", datatype="BYTES", content="image")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes, max_pixels: int = 1_000_000) -> Array:
    pixels = decode_image(data, where="photo", max_pixels=max_pixels)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    return pixels


def quarters() -> Image.Image:
    """Red, green / blue, white: 4 high, 6 wide."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:2, :3], pixels[:2, 3:], pixels[2:, :3], pixels[2:, 3:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_every_lossless_format_gives_the_pixels_back(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decoded(encoded(quarters(), kind, **options)), np.asarray(quarters()))


def test_a_jpeg_gives_nearly_the_pixels() -> None:
    image = quarters().resize((96, 64), Image.Resampling.NEAREST)
    difference = decoded(encoded(image, "JPEG", quality=95, subsampling=0)).astype(int) - np.asarray(image)
    assert abs(difference).mean() < 2


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (1, 1), 1), WHITE),
        (Image.new("L", (1, 1), 7), (7, 7, 7)),
        (Image.new("LA", (1, 1), (0, 0)), WHITE),
        (Image.new("LA", (1, 1), (9, 255)), (9, 9, 9)),
        (Image.new("RGBA", (1, 1), (255, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (1, 1), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (1, 1), (0, 0, 0, 128)), (127, 127, 127)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_grey_and_transparent_modes_become_rgb_over_white(image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert decoded(encoded(image))[0, 0].tolist() == list(expected)


def test_a_transparent_palette_colour_is_white_and_the_others_stay() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert decoded(encoded(image, transparency=0))[0].tolist() == [list(WHITE), list(GREEN)]


@pytest.mark.parametrize(("mode", "colour", "other"), [("RGB", RED, GREEN), ("L", 0, 90)])
def test_a_colour_that_a_png_names_as_transparent_is_white(mode: str, colour: Any, other: Any) -> None:
    image = Image.new(mode, (2, 1), colour)
    image.putpixel((1, 0), other)
    pixels = decoded(encoded(image, transparency=colour))
    assert pixels[0, 0].tolist() == list(WHITE)
    assert pixels[0, 1].tolist() == list(other if mode == "RGB" else (other,) * 3)


def test_cmyk_becomes_rgb() -> None:
    pixels = decoded(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(pixels.astype(int) - RED).max() < 8


def test_sixteen_bits_a_pixel_keep_their_upper_eight() -> None:
    grey = np.uint16([[0, 255, 256, 32_768, 65_535]])
    assert decoded(encoded(Image.fromarray(grey)))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_more_than_sixteen_bits_a_pixel_are_refused(dtype: type[np.generic]) -> None:
    with pytest.raises(UnsupportedMedia, match="32 bits"):
        decoded(encoded(Image.fromarray(np.ones((2, 2), dtype)), "TIFF"))


TURNS: dict[int, Callable[[Array], Array]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright.transpose(1, 0, 2), 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [*TURNS])
def test_an_image_is_turned_upright_as_exif_says(orientation: int, kind: str) -> None:
    upright = np.asarray(quarters())
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(encoded(stored, kind, exif=exif)), upright)


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(encoded(quarters(), exif=exif)), np.asarray(quarters()))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(decoded(data).astype(int) - RED).max() < 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_corrupt(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(CorruptMedia, match=r"^photo: "):
        decoded(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"", "no bytes"), (b"not an image", "12 bytes that begin with b'not an i'"), (b"<svg/>", "6 bytes")],
)
def test_what_is_not_an_image_says_what_it_begins_with(data: bytes, found: str) -> None:
    with pytest.raises(CorruptMedia) as caught:
        decoded(data)
    assert (caught.value.found or "").startswith(found)


@given(st.binary(max_size=64), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]), st.integers(0, 200))
def test_damage_anywhere_gives_pixels_or_an_input_error(damage: bytes, kind: str, start: int) -> None:
    data = bytearray(encoded(quarters(), kind))
    data[start : start + len(damage)] = damage
    try:
        decoded(bytes(data))
    except InputError as error:
        assert error.where == "photo"


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT"


@pytest.mark.parametrize(
    ("width", "height"), [(60_000, 60_000), (MAX_SIDE + 1, 1), (1, 40_000_000), (1001, 1000), (2**31 - 1, 2**31 - 1)]
)
def test_a_size_beyond_the_limits_is_refused_before_anything_is_decoded(width: int, height: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge) as caught:
            decoded(png_header(width, height) + bytes(100))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.found == f"{width}x{height}"
    assert peak < 2_000_000


def test_an_image_at_the_limit_is_decoded() -> None:
    assert decoded(encoded(Image.new("L", (1000, 1000)))).shape == (1000, 1000, 3)
    assert decoded(encoded(Image.new("1", (MAX_SIDE, 1)))).shape == (1, MAX_SIDE, 3)


def test_images_are_decoded_on_many_threads_at_once() -> None:
    data, expected = encoded(quarters()), np.asarray(quarters())
    wrong: list[Exception | AssertionError] = []

    def work() -> None:
        try:
            for _ in range(50):
                np.testing.assert_array_equal(decoded(data), expected)
        except (Exception, AssertionError) as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_step_takes_bytes_buffers_blobs_and_pixels() -> None:
    step = DecodeImagePreparation(FIELD, output="pixels", max_pixels=100)
    data, pixels = encoded(quarters()), np.asarray(quarters())
    for value in (data, bytearray(data), memoryview(data), Blob(data=data, media_type="image/png"), pixels):
        np.testing.assert_array_equal(step({"photo": value})["pixels"], pixels)


@pytest.mark.parametrize(
    ("value", "error"),
    [("a path", WrongDatatype), (np.zeros((2, 2)), WrongDatatype), (None, MissingInput),
     (np.zeros((20, 20, 3), np.uint8), TooLarge)],
)  # fmt: skip
def test_the_step_refuses_other_values(value: Any, error: type[InputError]) -> None:
    with pytest.raises(error, match=r"^photo: "):
        DecodeImagePreparation(FIELD, output="pixels", max_pixels=100)({"photo": value})
