"""Photos that two gallery packages are tried on: where each comes from, its licence and what it shows.

They are taken from pinned wheels of scikit-image and scikit-learn (`gallery/sources.toml`) and never committed.
A package built from here holds them re-encoded as JPEG, with `CREDITS.txt` beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gallery.fetch import load_source

JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo in a pinned wheel. `shows`: class names of which an honest top-5 holds at least one."""

    name: str
    source: str
    member: str
    licence: str
    credit: str
    shows: tuple[str, ...] = ()


CATS = ("tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat")

PHOTOS = (
    Photo(
        name="cat", source="scikit-image", member="skimage/data/chelsea.png",
        licence="CC0-1.0", credit="Chelsea the cat, by Stefan van der Walt", shows=CATS,
    ),
    Photo(
        name="coffee", source="scikit-image", member="skimage/data/coffee.png",
        licence="CC0-1.0", credit="Coffee, by Rachel Michetti", shows=("espresso",),
    ),
    Photo(
        name="rocket", source="scikit-image", member="skimage/data/rocket.jpg",
        licence="public domain", credit="Falcon 9 on its pad, by SpaceX", shows=("missile",),
    ),
    Photo(
        name="astronaut", source="scikit-image", member="skimage/data/astronaut.png",
        licence="public domain", credit="Eileen Collins, by NASA",
    ),
    Photo(
        name="flower", source="scikit-learn", member="sklearn/datasets/images/flower.jpg",
        licence="CC-BY-2.0", credit="Flower, by vultilion on Flickr (photo 6056698931)", shows=("daisy",),
    ),
    Photo(
        name="china", source="scikit-learn", member="sklearn/datasets/images/china.jpg",
        licence="CC-BY-2.0", credit="China, by danielbuechele on Flickr (photo 6061409035)", shows=("palace",),
    ),
)  # fmt: skip


def read_photo(photo: Photo) -> Image.Image:
    """The photo as the wheel holds it, in RGB."""
    with Image.open(load_source(photo.source)[photo.member]) as image:
        return image.convert("RGB")


def write_photos(folder: Path, photos: Sequence[Photo] = PHOTOS) -> dict[str, Path]:
    """Write the photos as JPEG into `folder`, with `CREDITS.txt`; returns the path of each by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for photo in photos:
        written[photo.name] = folder / f"{photo.name}.jpg"
        read_photo(photo).save(written[photo.name], "JPEG", quality=JPEG_QUALITY)
    lines = [f"{photo.name}.jpg: {photo.credit}; {photo.licence}; re-encoded as JPEG" for photo in photos]
    (folder / "CREDITS.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return written
