"""Triton's Python backend for the bench: joins the requests of a batch, runs onnxruntime once, cuts the answers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bench.peers.inference import served_model


class TritonPythonModel:
    """One instance: one onnxruntime session."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the package that the bench serves."""
        self.model = served_model(int(os.environ["BENCH_THREADS"]))
        self.answer = self.matrices if self.model.kind == "tensor" else self.items

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests that Triton's dynamic batcher put together."""
        return self.answer(requests)

    def matrices(self, requests: list[Any]) -> list[Any]:
        """Rows in, rows out."""
        parts = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        results = self.model.matrix(np.concatenate(parts) if len(parts) > 1 else parts[0])
        responses, start = [], 0
        for part in parts:
            rows = results[start : start + len(part)]
            start += len(part)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", rows)]))
        return responses

    def items(self, requests: list[Any]) -> list[Any]:
        """Photos or texts in, labels and scores out."""
        decoder, prepared, counts = self.model.decoder, [], []
        for request in requests:
            cells = pb_utils.get_input_tensor_by_name(request, "item").as_numpy().reshape(-1)
            counts.append(len(cells))
            for cell in cells:
                prepared.append(decoder.image(cell) if self.model.kind == "image" else decoder.text(cell.decode()))
        rankings = [self.model.ranked(outputs) for outputs in self.model.run(prepared)]
        responses, start = [], 0
        for count in counts:
            mine = rankings[start : start + count]
            start += count
            labels = np.array([[name.encode() for name, _ in ranking] for ranking in mine], dtype=np.object_)
            scores = np.array([[score for _, score in ranking] for ranking in mine], dtype=np.float32)
            tensors = [pb_utils.Tensor("label", labels), pb_utils.Tensor("score", scores)]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
