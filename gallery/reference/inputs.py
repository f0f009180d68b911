"""The inputs behind the committed reference numbers, rebuilt to the bit from recipes.

Photos are cropped with whole-number strides and never resized, so that no library's interpolation enters; each
input's SHA-256 is stored beside its reference, so a decoder that gives other pixels is noticed and not blamed on a
graph. Photos come from pinned wheels (`gallery/sources.toml`); none is committed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent
SIDE = 224
Flip = Literal["none", "left-right", "up-down", "quarter-turn"]

#: Photo, height and width as the wheel holds it. The JPEGs stand last: only their decoding depends on a library.
PHOTOS: tuple[tuple[str, str, int, int], ...] = (
    ("scikit-image", "skimage/data/astronaut.png", 512, 512),
    ("scikit-image", "skimage/data/chelsea.png", 300, 451),
    ("scikit-image", "skimage/data/coffee.png", 400, 600),
    ("scikit-image", "skimage/data/ihc.png", 512, 512),
    ("scikit-image", "skimage/data/camera.png", 512, 512),
    ("scikit-image", "skimage/data/brick.png", 512, 512),
    ("scikit-image", "skimage/data/grass.png", 512, 512),
    ("scikit-image", "skimage/data/coins.png", 303, 384),
    ("scikit-image", "skimage/data/rocket.jpg", 427, 640),
    ("scikit-learn", "sklearn/datasets/images/china.jpg", 427, 640),
    ("scikit-learn", "sklearn/datasets/images/flower.jpg", 427, 640),
)


@dataclass(frozen=True, kw_only=True)
class PhotoCrop:
    """A 224 x 224 crop of a photo: every `stride`-th pixel from `top`, `left`, then turned."""

    source: str
    member: str
    top: int
    left: int
    stride: int
    flip: Flip


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Uniform pixels from a seed."""

    seed: int


Recipe = PhotoCrop | Noise


def recipes() -> list[Recipe]:
    """The fixed list of recipes, in the order of the reference rows."""
    crops: list[Recipe] = []
    for index, (source, member, height, width) in enumerate(PHOTOS):
        for stride in (1, 2):
            room_y, room_x = height - SIDE * stride, width - SIDE * stride
            if room_y < 0 or room_x < 0:
                continue
            corners = [(room_y // 2, room_x // 2), (0, 0), (room_y, room_x), (room_y // 3, room_x // 5)]
            flips: tuple[Flip, ...] = ("none", "left-right", "up-down", "quarter-turn")
            for step, (top, left) in enumerate(corners):
                flip = flips[(step + index) % 4] if step else "none"  # the centre stays upright
                crops.append(PhotoCrop(source=source, member=member, top=top, left=left, stride=stride, flip=flip))
            crops.append(
                PhotoCrop(source=source, member=member, top=room_y // 2, left=room_x // 2, stride=stride,
                          flip="left-right")
            )  # fmt: skip
    return crops + [Noise(seed=seed) for seed in range(8)]


def pixels(recipe: Recipe, photos: Mapping[str, Path]) -> npt.NDArray[np.uint8]:
    """The pixels of a recipe, RGB, [224, 224, 3]. `photos`: where each member lies."""
    if isinstance(recipe, Noise):
        return np.random.default_rng(recipe.seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    from PIL import Image

    with Image.open(photos[recipe.member]) as photo:
        whole = np.asarray(photo.convert("RGB"))
    end_y, end_x = recipe.top + SIDE * recipe.stride, recipe.left + SIDE * recipe.stride
    crop = whole[recipe.top : end_y : recipe.stride, recipe.left : end_x : recipe.stride]
    turned = {
        "none": crop,
        "left-right": crop[:, ::-1],
        "up-down": crop[::-1],
        "quarter-turn": crop.transpose(1, 0, 2)[::-1],
    }[recipe.flip]
    return np.ascontiguousarray(turned)


def lite_input(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """EfficientNet-lite's scaling: (value - 127) / 128, exact in FP32; [height, width, 3] to [3, height, width]."""
    return np.ascontiguousarray(((rgb.astype(np.float32) - 127) / 128).transpose(2, 0, 1))


def digest(array: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def sentences() -> list[str]:
    """The reference sentences, in the order of the reference rows."""
    words = json.loads((FOLDER / "minilm_sentences.json").read_text(encoding="utf-8"))
    return [str(sentence) for sentence in words]
