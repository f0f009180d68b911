"""Log-mel spectrograms as Whisper was trained on (Radford et al., 2022, "Robust Speech Recognition via Large-Scale
Weak Supervision"): 16 kHz, Hann windows of 25 ms every 10 ms, mel bands after Slaney, the top 8 decades of power.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from onward.types import Array

RATE_HZ = 16_000
FRAMES_A_SECOND = 100
_HOP = RATE_HZ // FRAMES_A_SECOND
_FFT = 400
_DECADES = 8.0
_LINEAR_HZ = 200.0 / 3
"""Below 1 kHz Slaney's scale has a mel for each 66.7 Hz, above it 27 for each factor of 6.4."""
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = np.log(6.4) / 27.0


def log_mel(samples: Array, *, frames: int, bands: int = 80) -> Array:
    """FP32 (bands, frames) of FP32 (samples,), with silence to the end, cut off where it is longer."""
    size = frames * _HOP
    padded = np.zeros(size + _FFT, np.float32)
    kept = samples[:size]
    padded[_FFT // 2 : _FFT // 2 + len(kept)] = kept
    # Reflected at the beginning; what comes after the end is silence, as it would be reflected, too.
    before = kept[1 : _FFT // 2 + 1][::-1]
    padded[_FFT // 2 - len(before) : _FFT // 2] = before
    pieces = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:frames]
    power = np.abs(np.fft.rfft(pieces * _hann(), axis=1)) ** 2
    logs = np.log10(np.maximum(_filters(bands) @ power.T.astype(np.float32), 1e-10))
    logs = np.maximum(logs, logs.max() - _DECADES)
    return np.ascontiguousarray((logs + 4.0) / 4.0, dtype=np.float32)


@cache
def _hann() -> Array:
    window: Array = np.hanning(_FFT + 1)[:-1].astype(np.float32)
    return window


@cache
def _filters(bands: int) -> Array:
    """Triangles of equal area over the bins of the spectrum: FP32 (bands, 201)."""
    bins_hz = np.linspace(0, RATE_HZ / 2, _FFT // 2 + 1)
    edges_hz = _hz(np.linspace(0.0, float(_mel(np.array(RATE_HZ / 2))), bands + 2))
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    areas = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    filters: Array = (np.maximum(0.0, np.minimum(rising, falling)) * areas[:, None]).astype(np.float32)
    return filters


def _mel(hz: Array) -> Array:
    above = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ, above)


def _hz(mel: Array) -> Array:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _BREAK_MEL) - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, above)
