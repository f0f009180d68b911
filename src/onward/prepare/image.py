"""Image file → pixels. Resizing, cropping and normalising are graphs; only decoding happens here.

The contract of decoding: the first frame, turned upright as EXIF says, transparency over white, as 8-bit RGB.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from onward.errors import CorruptMedia, InputError, TooLarge, UnsupportedMedia, WrongDatatype
from onward.prepare.fields import shown, value_of
from onward.types import Array, Blob, Field, Item

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_SIDE = 65_535
"""Pixels of the longer side; onnxruntime's Resize fails on images that are far longer than they are wide."""

_ORIENTATION = 0x0112  # the EXIF tag
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_TRANSPARENT = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_WHITE = (255, 255, 255, 255)

# Pillow's own limit only warns, and warnings are not thread-safe to catch; ours is checked before any decoding.
Image.MAX_IMAGE_PIXELS = None
# Pillow gives every image's memory back to the system, and the page faults of taking it again cost more than half of
# the time that a photo takes to decode. Keep eight of its blocks (of 16 MiB, only once they have been used).
_core: Any = vars(Image)["core"]
_core.set_blocks_max(8)


class DecodeImagePreparation:
    """Decodes one image field; the number of pixels is checked before any is decoded."""

    def __init__(self, field: Field, *, output: str, max_pixels: int) -> None:
        self._field = field
        self._output = output
        self._max_pixels = max_pixels

    def __call__(self, item: Item) -> dict[str, Array]:
        """The image as {output: UINT8 [height, width, 3]}."""
        data = value_of(self._field, item)
        where = self._field.name
        if isinstance(data, Blob):
            data = data.data
        if isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 3 and data.shape[2] == 3:
            _check_size(data.shape[1], data.shape[0], where=where, max_pixels=self._max_pixels)
            return {self._output: np.ascontiguousarray(data)}
        if not isinstance(data, bytes | bytearray | memoryview):
            raise WrongDatatype(where=where, expected="the bytes of an image file", found=shown(data))
        return {self._output: decode_image(data, where=where, max_pixels=self._max_pixels)}


def decode_image(data: bytes | bytearray | memoryview, *, where: str, max_pixels: int) -> Array:
    """The pixels of an image file: UINT8 [height, width, 3].

    Raises `TooLarge` before decoding, `UnsupportedMedia` for pixels of more than 16 bits, `CorruptMedia` for the rest.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.width, image.height, where=where, max_pixels=max_pixels)
        if image.getexif().get(_ORIENTATION, 1) != 1:  # turning copies, even where there is nothing to turn
            image = ImageOps.exif_transpose(image)
        return _rgb(image, where)
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds; all of them mean that the file is not readable
        raise CorruptMedia(
            where=where, expected=f"a whole file in one of {', '.join(FORMATS)}", found=_reason(error, data)
        ) from None


def _rgb(image: Image.Image, where: str) -> Array:
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    elif image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format == "PNG"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)  # Pillow's own conversion clips at 255: nearly all white
        return np.repeat(grey[:, :, None], 3, axis=2)  # (height, width, 3)
    elif image.mode in ("I", "F"):
        raise UnsupportedMedia(where=where, expected="an image of 8 or 16 bits a channel", found="32 bits a channel")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _check_size(width: int, height: int, *, where: str, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        expected = f"at most {max_pixels} pixels and {MAX_SIDE} a side"
        raise TooLarge(where=where, expected=expected, found=f"{width}x{height}")


def _reason(error: Exception, data: bytes | bytearray | memoryview) -> str:
    if not data:
        return "no bytes"
    if isinstance(error, UnidentifiedImageError):
        return f"{len(data)} bytes that begin with {bytes(data[:8])!r}"
    return f"{type(error).__name__}: {error}"
