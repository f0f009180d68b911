"""Image file → pixels. Resizing, cropping and normalising are graphs; only decoding happens here.

The contract of decoding: the first frame, turned upright as EXIF says, transparency over white, as 8-bit RGB.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from onward.errors import CorruptMedia, TooLarge, WrongDatatype
from onward.prepare.fields import shown
from onward.types import Array, Blob, Item

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class DecodeImagePreparation:
    """Decodes one image field; the number of pixels is checked before any is decoded."""

    def __init__(self, *, input: str, output: str, max_pixels: int) -> None:
        self._input = input
        self._output = output
        self._max_pixels = max_pixels

    def __call__(self, item: Item) -> dict[str, Array]:
        """The image as {output: UINT8 [height, width, 3]}."""
        data = item[self._input]
        if isinstance(data, Blob):
            data = data.data
        if isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 3 and data.shape[2] == 3:
            return {self._output: np.ascontiguousarray(data)}
        if not isinstance(data, bytes | bytearray | memoryview):
            raise WrongDatatype(where=self._input, expected="the bytes of an image file", found=shown(data))
        return {self._output: decode_image(bytes(data), where=self._input, max_pixels=self._max_pixels)}


def decode_image(data: bytes, *, where: str, max_pixels: int) -> Array:
    """The pixels of an image file: UINT8 [height, width, 3]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own size limit: ours is checked below
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise TooLarge(where=where, expected=f"at most {max_pixels} pixels", found=f"{image.width}x{image.height}")
        image = ImageOps.exif_transpose(image)
        if image.mode == "RGB":
            return np.asarray(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(ground, image)
        return np.asarray(image.convert("RGB"))
    except TooLarge:
        raise
    except Exception as error:  # decoders raise many kinds; all of them mean that the file is not readable
        raise CorruptMedia(
            where=where, expected=f"a whole file in one of {', '.join(FORMATS)}", found=_reason(error, data)
        ) from None


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "no bytes"
    if isinstance(error, UnidentifiedImageError):
        return f"{len(data)} bytes that begin with {data[:8]!r}"
    return f"{type(error).__name__}: {error}"
