"""Where somebody speaks: Silero's voice activity model over a waveform, chunk by chunk.

Knows nothing of files' formats or of what is made of the speech. A detector has a state: one for each sound.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from onward.errors import RefusedGraph
from onward.types import Array

RATE_HZ = 16_000
CHUNK_SAMPLES = 512
_CONTEXT_SAMPLES = 64
_STATE_SHAPE = (2, 1, 128)
# Speech begins at the threshold and ends this far below it; pauses shorter than that are part of it, and sounds
# shorter than that are none. A little is kept on either side, for consonants that hardly sound.
_BELOW = 0.15
_SHORTEST_PAUSE_S = 0.3
_SHORTEST_SPEECH_S = 0.1
_PAD_S = 0.1


class VoiceActivity:
    """The model in a file (Silero VAD 5 or 6 as ONNX), at 16 kHz. Raises `RefusedGraph` where it is another one."""

    def __init__(self, file: Path, *, threshold: float = 0.5) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own classes
            raise RefusedGraph(f"{file.name} could not be loaded: {error}") from error
        inputs = {node.name for node in self._session.get_inputs()}
        if inputs != {"input", "state", "sr"}:
            raise RefusedGraph(
                f"{file.name} is no voice activity model", expected="inputs input, state and sr", found=str(inputs)
            )
        self._threshold = threshold
        self._rate = np.array(RATE_HZ, np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget what has been heard."""
        self._state = np.zeros(_STATE_SHAPE, np.float32)
        self._window = np.zeros((1, _CONTEXT_SAMPLES + CHUNK_SAMPLES), np.float32)

    def probability(self, chunk: Array) -> float:
        """How likely the next 512 samples, FP32 in [-1, 1], hold speech."""
        window = self._window
        window[0, :_CONTEXT_SAMPLES] = window[0, -_CONTEXT_SAMPLES:]
        window[0, _CONTEXT_SAMPLES:] = chunk
        feeds = {"input": window, "state": self._state, "sr": self._rate}
        found, self._state = self._session.run(None, feeds)  # (1, 1), (2, 1, 128)
        return float(found[0, 0])

    def speech(self, waveform: Array) -> list[tuple[float, float]]:
        """Where speech begins and ends in a waveform, FP32 (samples,), in seconds. Begins anew."""
        self.reset()
        padded = np.zeros(-(-len(waveform) // CHUNK_SAMPLES) * CHUNK_SAMPLES, np.float32)
        padded[: len(waveform)] = waveform
        found: list[tuple[float, float]] = []
        begins_s: float | None = None
        chunk_s = CHUNK_SAMPLES / RATE_HZ
        for index, chunk in enumerate(padded.reshape(-1, CHUNK_SAMPLES)):
            probability = self.probability(chunk)
            if begins_s is None and probability >= self._threshold:
                begins_s = index * chunk_s
            elif begins_s is not None and probability < self._threshold - _BELOW:
                found.append((begins_s, index * chunk_s))
                begins_s = None
        end_s = len(waveform) / RATE_HZ
        if begins_s is not None:
            found.append((begins_s, end_s))
        return _padded(_joined(found), end_s)


def _joined(found: list[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for begins_s, ends_s in found:
        if joined and begins_s - joined[-1][1] < _SHORTEST_PAUSE_S:
            joined[-1] = (joined[-1][0], ends_s)
        else:
            joined.append((begins_s, ends_s))
    return [(begins_s, ends_s) for begins_s, ends_s in joined if ends_s - begins_s >= _SHORTEST_SPEECH_S]


def _padded(found: list[tuple[float, float]], end_s: float) -> list[tuple[float, float]]:
    """With a little before and after; pauses are at least three times as long as that."""
    return [(max(0.0, begins_s - _PAD_S), min(end_s, ends_s + _PAD_S)) for begins_s, ends_s in found]
