"""Builds the package `ocr`: PP-OCRv6's detector and recogniser with a reader of our own around them.

The weights come as ONNX from the pinned wheel `rapidocr`, whose Python is not used. The characters stand in the
recogniser's own metadata. The examples are pages whose text is known; the build refuses to go on where a line of the
drawn ones is misread, because then the reader around the models is broken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from gallery.fetch import load_source
from gallery.ocr.pages import Page, invoice, scanned_page

HERE = Path(__file__).parent
SOURCE = "rapidocr"
WEIGHTS = {
    "det.onnx": "rapidocr/models/PP-OCRv6_det_small.onnx",
    "rec.onnx": "rapidocr/models/PP-OCRv6_rec_small.onnx",
}
LICENCES = {
    "rapidocr-3.10.0.dist-info/licenses/LICENSE": "LICENCE.txt",
    "rapidocr-3.10.0.dist-info/licenses/MODEL_LICENSES.md": "MODEL_LICENCES.md",
}
EXAMPLES = 2

Progress = Callable[[str, float], None]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    members = load_source(SOURCE)
    progress("writing the package", 0.6)
    for name, member in WEIGHTS.items():
        shutil.copyfile(members[member], out / name)
    for name in ("onward.toml", "card.md", "reader.py", "boxes.py", "lines.schema.json"):
        shutil.copyfile(HERE / name, out / name)
    for member, name in LICENCES.items():
        shutil.copyfile(members[member], out / name)
    progress("writing the examples", 0.8)
    write_examples(out, [*(invoice(number) for number in range(EXAMPLES)), scanned_page()])
    progress("done", 1.0)


def write_examples(out: Path, pages: list[Page]) -> None:
    """Golden examples: pages, and the text that a person reads on them."""
    (out / "examples").mkdir(exist_ok=True)
    rows = []
    for page in pages:
        file = out / "examples" / f"{page.name.removesuffix('.png').replace(' ', '-')}.png"
        file.write_bytes(page.data)
        rows.append(
            {
                "name": page.name,
                "input": {"image": {"file": f"examples/{file.name}"}},
                "answer": {"text": "\n".join(page.lines)},
            }
        )
    (out / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
