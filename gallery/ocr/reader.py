"""Reads the text in pictures: PP-OCRv6's detector finds the lines, its recogniser spells each of them.

The package's own source, run in a process of its own; needs numpy, onnxruntime and Pillow.
The detector says of each pixel how likely it lies in the shrunken core of a line (DB, differentiable binarisation);
cores become boxes, which grow by what the training had shrunk them. The recogniser says, column by column, which
character is there; CTC decoding drops repeats and blanks.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
from boxes import boxes_of, in_reading_order
from PIL import Image

DETECTOR, RECOGNISER = "det.onnx", "rec.onnx"
SHORT_SIDE, LONGEST_SIDE = 736, 1600
"""Pixels: small pictures are enlarged until their short side has so many, large ones shrink to the longest side."""
LINE_HEIGHT, WIDEST_LINE = 48, 3200
LINES_A_BATCH = 6
FEWEST_SCORE = 0.5
"""Lines of which the recogniser is less sure are not text but texture."""
TALL = 1.5
"""A box so many times as tall as wide holds a line that runs up or down."""
MARGIN = 32
"""White around a picture, in pixels: the detector misses lines that touch the edge."""


class Reader:
    """Pictures in, text and lines out; the lines as JSON: `[{"text", "score", "box": [left, top, right, bottom]}]`."""

    def __init__(self, folder: Path) -> None:
        threads = max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
        self._detector = _session(folder / DETECTOR, threads)
        self._recogniser = _session(folder / RECOGNISER, threads)
        characters = self._recogniser.get_modelmeta().custom_metadata_map["character"].split("\n")
        # Class 0 is CTC's blank; the space is last and not in the list.
        self._characters = np.array(["", *(character for character in characters if character), " "], dtype=object)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`pixels` UINT8 [batch, height, width, 3] → `text` and `lines`, BYTES [batch]."""
        pages = [self.read(pixels) for pixels in feeds["pixels"]]
        text = ["\n".join(str(line["text"]) for line in lines) for lines in pages]
        return {"text": _bytes(text), "lines": _bytes([json.dumps(lines, ensure_ascii=False) for lines in pages])}

    def read(self, pixels: np.ndarray) -> list[dict[str, object]]:
        """The lines of one picture, UINT8 [height, width, 3], in reading order."""
        lines = []
        for row in in_reading_order(self.find(pixels)):
            crops = [_line_of(pixels, box) for box in row]
            for box, (text, score) in zip(row, self.spell(crops), strict=True):
                if text.strip() and score >= FEWEST_SCORE:
                    lines.append({"text": text.strip(), "score": round(score, 4), "box": [int(side) for side in box]})
        return lines

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """The boxes of the lines, INT64 [lines, 4]: left, top, right, bottom in the picture's pixels."""
        height, width = pixels.shape[:2]
        framed = np.pad(pixels, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
        scale = max(1.0, SHORT_SIDE / min(framed.shape[:2]))
        scale = min(scale, LONGEST_SIDE / max(framed.shape[:2]))
        size = [max(32, round(side * scale / 32) * 32) for side in framed.shape[:2]]
        image = Image.fromarray(framed).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        likely = self._detector.run(None, {"x": _normalised(np.asarray(image))[np.newaxis]})[0][0, 0]  # (height, width)
        boxes = boxes_of(likely)
        if not len(boxes):
            return np.zeros((0, 4), dtype=np.int64)
        steps = np.array([framed.shape[1] / size[1], framed.shape[0] / size[0]] * 2)
        boxes = np.rint(boxes * steps).astype(np.int64) - MARGIN
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
        sides = boxes[:, 2:] - boxes[:, :2]
        return boxes[(sides > 3).all(1)]

    def spell(self, crops: list[Image.Image]) -> list[tuple[str, float]]:
        """The text of each line and how sure the recogniser is, 0 to 1: the mean over its characters."""
        spelt: list[tuple[str, float]] = [("", 0.0)] * len(crops)
        widths = [min(WIDEST_LINE, max(16, round(crop.width * LINE_HEIGHT / crop.height))) for crop in crops]
        order = np.argsort(widths)
        for start in range(0, len(order), LINES_A_BATCH):
            chosen = order[start : start + LINES_A_BATCH]
            widest = max(320, max(widths[index] for index in chosen))
            batch = np.zeros((len(chosen), 3, LINE_HEIGHT, widest), dtype=np.float32)
            for row, index in enumerate(chosen):
                resized = crops[index].resize((widths[index], LINE_HEIGHT), Image.Resampling.BILINEAR)
                batch[row, :, :, : widths[index]] = _normalised(np.asarray(resized))
            likely = self._recogniser.run(None, {"x": batch})[0]  # (lines, columns, characters)
            for row, index in enumerate(chosen):
                spelt[index] = self._decoded(likely[row])
        return spelt

    def _decoded(self, likely: np.ndarray) -> tuple[str, float]:
        best = likely.argmax(1)
        kept = best != 0
        kept[1:] &= best[1:] != best[:-1]
        if not kept.any():
            return "", 0.0
        return "".join(self._characters[best[kept]]), float(likely.max(1)[kept].mean())


def _bytes(texts: list[str]) -> np.ndarray:
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() for text in texts]
    return array


def _session(file: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # every picture has another size: the arena would keep the largest of all
    options.log_severity_level = 3
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _normalised(pixels: np.ndarray) -> np.ndarray:
    """UINT8 [height, width, 3], RGB → FP32 [3, height, width], BGR, -1 to 1."""
    return (pixels[:, :, ::-1].astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)


def _line_of(pixels: np.ndarray, box: np.ndarray) -> Image.Image:
    left, top, right, bottom = box
    crop = Image.fromarray(pixels[top:bottom, left:right])
    return crop.transpose(Image.Transpose.ROTATE_90) if crop.height > TALL * crop.width else crop
