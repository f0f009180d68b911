"""Pages whose text is known: a scanned page of scikit-image and invoices that are drawn here."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from gallery.fetch import load_source

PAGE_LINES = (
    "Region-based segmentation",
    "Let us first determine markers of the coins and the",
    "background. These markers are pixels that we can label",
    "unambiguously as either object or background. Here,",
    "the markers are found at the two extreme parts of the",
    "histogram of grey values:",
    "markers = np.zeros_like(coins)",
)
"""What is printed on scikit-image's page.png, read by a person. Its sizes differ and a shadow lies over it."""
_SELLERS = ("Harbour Road Supplies", "Northgate Paper Ltd", "Mill & Son", "Oak Street Bakery", "Blue Lantern Books")
_GOODS = ("Desk lamp", "Copy paper A4", "Oak shelf", "Rye bread", "Atlas of rivers", "Steel screws", "Ink, black")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A picture as PNG, and the lines that are on it."""

    name: str
    data: bytes
    lines: tuple[str, ...]


def scanned_page() -> Page:
    """scikit-image's page.png."""
    file: Path = load_source("scikit-image")["skimage/data/page.png"]
    return Page(name="page.png", data=file.read_bytes(), lines=PAGE_LINES)


def invoice(number: int, *, worn: bool = False) -> Page:
    """An invoice drawn from a seed; `worn` ones are small, blurred, noisy and on grey paper."""
    random = np.random.default_rng(number)
    amounts = [(int(random.integers(1, 12)), int(random.integers(199, 25_000))) for _ in range(3)]
    goods = random.permutation(len(_GOODS))[:3]
    lines = [
        _SELLERS[number % len(_SELLERS)],
        f"INVOICE No. {2020 + number % 7}-{int(random.integers(100, 9999)):04d}",
        f"Date: {int(random.integers(1, 29))} March {2020 + number % 7}",
        *(
            f"{_GOODS[good]}: {count} x {cents / 100:.2f} EUR"
            for good, (count, cents) in zip(goods, amounts, strict=True)
        ),
        f"Total due: {sum(count * cents for count, cents in amounts) / 100:,.2f} EUR",
        f"Please pay within {int(random.integers(7, 60))} days. Thank you!",
    ]
    size = int(random.integers(15, 18) if worn else random.integers(20, 34))
    paper, ink = (215, 60) if worn else (255, 0)
    image = Image.new("L", (size * 26, size * 2 * (len(lines) + 1)), paper)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size)
    for row, line in enumerate(lines):
        draw.text((size * 1.5, size * (2 * row + 1)), line, fill=ink, font=font)
    if worn:
        image = image.filter(ImageFilter.GaussianBlur(0.6))
        noisy = np.asarray(image, dtype=np.float64) + random.normal(0, 12, (image.height, image.width))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    return Page(name=f"{'worn ' if worn else ''}invoice {number}", data=file.getvalue(), lines=tuple(lines))


def character_errors(wanted: str, found: str) -> int:
    """How many characters must be put in, taken out or changed to make one text of the other (Levenshtein)."""
    before = list(range(len(found) + 1))
    for row, character in enumerate(wanted, start=1):
        now = [row]
        for column, other in enumerate(found, start=1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (character != other)))
        before = now
    return before[-1]
