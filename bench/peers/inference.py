"""The model as every peer runs it: the same files, the same preparation, onnxruntime in Python.

Reads a package folder (`model.onnx`, and where there is an `onward.toml`: its prepare and generate steps). Knows
nothing of HTTP or of any server. Imported by the peers' own processes, so it needs numpy and onnxruntime only, and
Pillow or tokenizers where the package asks for them.
"""

from __future__ import annotations

import io
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

Tensors = dict[str, np.ndarray]
Step = dict[str, Any]


def session_of(path: Path, threads: int) -> ort.InferenceSession:
    """Open an ONNX file on the CPU with `threads` intra-op threads and one graph run at a time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Decoder:
    """Turns one request's item (a row, JPEG bytes, a text) into what the model's inputs take, batch dimension 1."""

    def __init__(self, folder: Path, steps: list[Step]) -> None:
        self._folder = folder
        self._graph: ort.InferenceSession | None = None
        self._tokenizer: Any = None
        self._token_outputs: list[str] = []
        self._pixels = "pixels"
        for step in steps:
            if step["step"] == "graph":
                self._graph = session_of(folder / step["file"], 1)
            elif step["step"] == "tokenize":
                self._open_tokenizer(step)
            elif step["step"] == "decode_image":
                self._pixels = step["output"]

    def _open_tokenizer(self, step: Step) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(self._folder / step["file"]))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(step["max_tokens"])
        self._token_outputs = list(step["outputs"])

    def row(self, row: np.ndarray, name: str) -> Tensors:
        """Pass a matrix (rows, columns) on, through the prepare graph where the package has one."""
        return self._through_graph({name: row})

    def text(self, text: str) -> Tensors:
        """Tokenise one text: INT64 (1, length) each."""
        encoding = self._tokenizer.encode(text)
        known = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask}
        known["token_type_ids"] = encoding.type_ids
        return self._through_graph({name: np.array([known[name]], np.int64) for name in self._token_outputs})

    def image(self, encoded: bytes) -> Tensors:
        """Decode a JPEG or PNG to UINT8 (height, width, 3) RGB as its EXIF orientation says, then prepare it."""
        from PIL import Image, ImageOps

        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        picture = picture if picture.mode == "RGB" else picture.convert("RGB")
        return self._through_graph({self._pixels: np.asarray(picture)})

    def _through_graph(self, tensors: Tensors) -> Tensors:
        if self._graph is None:
            return tensors
        names = [output.name for output in self._graph.get_outputs()]
        wanted = {value.name for value in self._graph.get_inputs()}
        fed = {name: value for name, value in tensors.items() if name in wanted}
        return dict(zip(names, self._graph.run(None, fed), strict=True))


@dataclass
class Model:
    """One opened package: decode per item, run per batch, label per item."""

    folder: Path
    threads: int = 1
    kind: str = field(init=False, default="tensor")
    top_k: int = field(init=False, default=1)
    labels: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        manifest_path = self.folder / "onward.toml"
        manifest: Step = tomllib.loads(manifest_path.read_text("utf-8")) if manifest_path.exists() else {}
        contents = [value.get("content", "value") for value in manifest.get("input", [])]
        self.kind = next((kind for kind in ("image", "text") if kind in contents), "tensor")
        self.decoder = Decoder(self.folder, manifest.get("prepare", []))
        self._pad = manifest.get("batching", {}).get("pad", {})
        self._session = session_of(self.folder / manifest.get("execute", {}).get("file", "model.onnx"), self.threads)
        self._input_names = [value.name for value in self._session.get_inputs()]
        self._output_names = [value.name for value in self._session.get_outputs()]
        self._generate: ort.InferenceSession | None = None
        self._ranking: Step = {}
        for step in manifest.get("generate", []):
            if step["step"] == "graph":
                self._generate = session_of(self.folder / step["file"], 1)
            elif step["step"] == "labels":
                self._ranking = step
                self.top_k = int(step.get("top_k", 1))
                self.labels = (self.folder / step["file"]).read_text("utf-8").splitlines()

    @property
    def input_name(self) -> str:
        """The model's first input: `x` for the perceptrons."""
        return str(self._input_names[0])

    @property
    def input_width(self) -> int:
        """The number of columns of the model's first input."""
        return int(self._session.get_inputs()[0].shape[1])

    @property
    def output_name(self) -> str:
        """The model's first output: `y` for the perceptrons."""
        return str(self._output_names[0])

    def matrix(self, rows: np.ndarray) -> np.ndarray:
        """Run the bare model on a matrix (rows, columns); returns its first output (rows, columns)."""
        results: np.ndarray = self._session.run(None, {self._input_names[0]: rows})[0]
        return results

    def run(self, items: list[Tensors]) -> list[Tensors]:
        """Run prepared items as one batch, padded to the longest; returns each item's outputs without the batch."""
        batch = {name: self._joined([item[name] for item in items], name) for name in self._input_names}
        outputs = dict(zip(self._output_names, self._session.run(None, batch), strict=True))
        if self._generate is not None:
            names = [value.name for value in self._generate.get_outputs()]
            wanted = [value.name for value in self._generate.get_inputs()]
            fed = {name: outputs[name] if name in outputs else batch[name] for name in wanted}
            outputs |= dict(zip(names, self._generate.run(None, fed), strict=True))
        return [{name: value[index] for name, value in outputs.items()} for index in range(len(items))]

    def _joined(self, parts: list[np.ndarray], name: str) -> np.ndarray:
        if name not in self._pad or len(parts) == 1:
            return np.concatenate(parts) if len(parts) > 1 else parts[0]
        longest = max(part.shape[1] for part in parts)
        shape = (len(parts), longest, *parts[0].shape[2:])
        padded = np.full(shape, self._pad[name], parts[0].dtype)
        for index, part in enumerate(parts):
            padded[index, : part.shape[1]] = part[0]
        return padded

    def ranked(self, outputs: Tensors) -> list[tuple[str, float]]:
        """Name the best `top_k` scores of one item, best first."""
        scores = outputs[self._ranking["scores"]]
        if "indices" in self._ranking:
            order = outputs[self._ranking["indices"]][: self.top_k]
            best = scores[: self.top_k]
        else:
            order = np.argsort(-scores, kind="stable")[: self.top_k]
            best = scores[order]
        return [(self.labels[int(index)], float(score)) for index, score in zip(order, best, strict=True)]


def served_model(threads: int) -> Model:
    """Open the package that the bench named in the environment for this server process."""
    return Model(Path(os.environ["BENCH_PACKAGE"]), threads)


def labelled(ranking: list[tuple[str, float]]) -> dict[str, object]:
    """The answer people read: the best label, its score, and the runners-up."""
    label, score = ranking[0]
    return {"label": label, "score": score, "labels": [{"label": name, "score": value} for name, value in ranking]}
