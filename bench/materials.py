"""The photos and texts that the vision and intent workloads send: real pictures, and texts of mixed lengths."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

UTTERANCES = Path(__file__).with_name("utterances.txt")
PHOTO_SIZES = ((320, 240), (480, 360), (640, 480), (512, 512), (360, 480))


def texts(count: int) -> list[str]:
    """Return `count` distinct texts from one utterance (about 4 words) to twelve in a row (about 110 words)."""
    lines = UTTERANCES.read_text("utf-8").splitlines()
    random = np.random.default_rng(5)
    lengths = random.choice([1, 1, 1, 2, 2, 3, 5, 8, 12], size=count)
    made: list[str] = []
    for index, length in enumerate(lengths):
        chosen = [lines[index % len(lines)], *random.choice(lines, size=int(length) - 1)]
        made.append(" ".join(str(line) for line in chosen) + ("" if index < len(lines) else f" ({index})"))
    return made


def photos(count: int, source: Path) -> list[bytes]:
    """Return `count` distinct JPEG files: crops of the pictures in `source` at the sizes people upload, quality 85."""
    from PIL import Image

    originals = [Image.open(path).convert("RGB") for path in sorted(source.rglob("*.jpg"))]
    if not originals:
        raise FileNotFoundError(f"no .jpg below {source.name}: the vision package has no example photos")
    random = np.random.default_rng(9)
    made = []
    for index in range(count):
        picture, size = originals[index % len(originals)], PHOTO_SIZES[index % len(PHOTO_SIZES)]
        share = 0.7 + 0.3 * random.random()
        width, height = int(picture.width * share), int(picture.height * share)
        left = int(random.integers(picture.width - width + 1))
        top = int(random.integers(picture.height - height + 1))
        crop = picture.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        crop.save(stream, "JPEG", quality=85)
        made.append(stream.getvalue())
    return made
