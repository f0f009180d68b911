"""Log-mel spectrograms against the formula, written down a second time."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from onward.execute.mel import FRAMES_A_SECOND, RATE_HZ, log_mel
from onward.types import Array

HOP, FFT, BANDS = 160, 400, 80


@cache
def filters() -> Array:
    """Slaney's triangles, one bin at a time: (80, 201)."""

    def mel(hz: float) -> float:
        return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    def hertz(of_mel: float) -> float:
        return 200 * of_mel / 3 if of_mel < 15 else 1000 * math.exp(math.log(6.4) / 27 * (of_mel - 15))

    edges = [hertz(of_mel) for of_mel in np.linspace(mel(0), mel(RATE_HZ / 2), BANDS + 2)]
    found = np.zeros((BANDS, FFT // 2 + 1))
    for band in range(BANDS):
        low, middle, high = edges[band : band + 3]
        for at in range(FFT // 2 + 1):
            hz = at * RATE_HZ / FFT
            found[band, at] = (
                max(0.0, min((hz - low) / (middle - low), (high - hz) / (high - middle))) * 2 / (high - low)
            )
    return found


def by_the_formula(samples: Array, frames: int) -> Array:
    """FP64 (80, frames), of the samples with silence behind them, reflected at both ends."""
    padded = np.zeros(frames * HOP)
    padded[: min(len(samples), len(padded))] = samples[: len(padded)]
    padded = np.pad(padded, FFT // 2, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)
    power = np.stack([np.abs(np.fft.rfft(padded[at * HOP : at * HOP + FFT] * hann)) ** 2 for at in range(frames)], 1)
    logs = np.log10(np.maximum(filters() @ power, 1e-10))
    logs = np.maximum(logs, logs.max() - 8)
    found: Array = (logs + 4) / 4
    return found


def noise(size: int) -> Array:
    return (np.random.default_rng(size).standard_normal(size) * 0.1).astype(np.float32)


def chirp(lasts_s: float) -> Array:
    at_s = np.arange(round(lasts_s * RATE_HZ)) / RATE_HZ
    return (0.4 * np.sin(2 * np.pi * (100 + 800 * at_s) * at_s)).astype(np.float32)


@pytest.mark.parametrize("frames", [500, 1000, 3000])
@pytest.mark.parametrize("samples", [noise(120), noise(7777), noise(70_000), chirp(4.0), chirp(0.5)],
                         ids=["120", "7777", "70000", "chirp", "short chirp"])  # fmt: skip
def test_it_equals_the_formula(samples: Array, frames: int) -> None:
    found = log_mel(samples, frames=frames)
    assert found.shape == (BANDS, frames) and found.dtype == np.float32 and found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found, by_the_formula(samples, frames), atol=1e-4)


def test_what_is_longer_is_cut_off_and_only_the_last_frames_tell() -> None:
    """The formula reflects at a cut, we have silence there: two frames differ, of windows that are never so long."""
    found, expected = log_mel(noise(100_000), frames=500), by_the_formula(noise(100_000), 500)
    np.testing.assert_allclose(found[:, :498], expected[:, :498], atol=1e-4)


def test_more_silence_behind_adds_frames_and_changes_none() -> None:
    short, long = log_mel(chirp(3.0), frames=500), log_mel(chirp(3.0), frames=3000)
    np.testing.assert_allclose(short, long[:, :500], atol=1e-6)


@pytest.mark.parametrize("samples", [np.zeros(RATE_HZ, np.float32), np.zeros(0, np.float32), np.ones(1, np.float32)])
def test_silence_nothing_and_one_sample_are_finite(samples: Array) -> None:
    found = log_mel(samples, frames=FRAMES_A_SECOND)
    assert found.shape == (BANDS, FRAMES_A_SECOND) and np.isfinite(found).all()


def test_a_tone_is_loudest_in_the_band_of_its_pitch() -> None:
    for hz in (150.0, 440.0, 1000.0, 3000.0, 7000.0):
        tone = np.sin(2 * np.pi * hz * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
        band = int(log_mel(tone, frames=FRAMES_A_SECOND)[:, 50].argmax())
        assert filters()[band, round(hz * FFT / RATE_HZ)] == pytest.approx(
            filters()[:, round(hz * FFT / RATE_HZ)].max()
        )


def test_another_number_of_bands_is_given() -> None:
    assert log_mel(noise(1000), frames=100, bands=128).shape == (128, 100)
