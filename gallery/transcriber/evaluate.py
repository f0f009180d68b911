"""How many words the built package `transcriber` gets wrong, of sentences that the package `voice` says.

    python -m gallery.transcriber.evaluate [REPOSITORY]

Synthetic speech of one voice at four speeds: easier than people, and said so in the card. Noise is white, at 10 dB
below the speech. The word error rate is the edit distance of the words over the words said, with numbers and hyphens
as they are spoken, lower case and without punctuation.
"""

from __future__ import annotations

import argparse
import io
import re
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onward.execute.piper import wav
from onward.streaming import StreamingPipeline
from onward.types import Array

HERE = Path(__file__).parent
SENTENCES_FILE = HERE / "sentences.txt"
SPEEDS = (0.8, 1.0, 1.15, 1.3)
NOISE_DB = 10.0


def main() -> None:
    """Say, listen, count, print."""
    parser = argparse.ArgumentParser(prog="python -m gallery.transcriber.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("repository", nargs="?", type=Path, default=Path("var/repository"))
    repository = parser.parse_args().repository
    said = SENTENCES_FILE.read_text(encoding="utf-8").splitlines()
    with StreamingPipeline.open(repository / "voice" / "1.0.0", check=False) as voice:
        clips = [_samples(voice({"text": text, "speed": SPEEDS[at % 4]}).answer["audio"].data)
                 for at, text in enumerate(said)]  # fmt: skip
    with StreamingPipeline.open(repository / "transcriber" / "1.0.0") as transcriber:
        for name, noise_db in (("clean", None), (f"noise at {NOISE_DB:g} dB", NOISE_DB)):
            started = time.perf_counter()
            errors = words_said = 0
            sound_s = 0.0
            for at, (text, (samples, rate_hz)) in enumerate(zip(said, clips, strict=True)):
                sound = samples if noise_db is None else noisy(samples, noise_db, seed=at)
                sound_s += len(sound) / rate_hz
                heard = str(transcriber({"audio": wav(_pcm(sound), rate_hz)}).answer["text"])
                wrong = distance(words(text), words(heard))
                errors += wrong
                words_said += len(words(text))
                if wrong:
                    print(f"  {wrong}  {text}\n     {heard}")
            took_s = time.perf_counter() - started
            print(f"{name}: {errors} of {words_said} words wrong, WER {errors / words_said:.1%}, {len(said)} sentences,"
                  f" {sound_s:.0f} s of speech in {took_s:.1f} s")  # fmt: skip


def words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("-", " "))


def distance(wanted: Sequence[str], found: Sequence[str]) -> int:
    """The edit distance of two sequences (Levenshtein, 1966)."""
    row = list(range(len(found) + 1))
    for at, one in enumerate(wanted, 1):
        before, row[0] = row[0], at
        for place, other in enumerate(found, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (one != other))
    return row[-1]


def noisy(samples: Array, below_db: float, *, seed: int) -> Array:
    """The samples with white noise, its power so many decibels below theirs."""
    noise = np.random.default_rng(seed).standard_normal(len(samples)).astype(np.float32)
    power = float(np.square(samples).mean()) / 10 ** (below_db / 10)
    mixed: Array = samples + noise * np.sqrt(power)
    return mixed


def _samples(data: bytes) -> tuple[Array, int]:
    with wave.open(io.BytesIO(data)) as reader:
        pcm = np.frombuffer(reader.readframes(reader.getnframes()), "<i2")
        return pcm.astype(np.float32) / 32_768, reader.getframerate()


def _pcm(samples: Array) -> bytes:
    loudest = max(1.0, float(np.abs(samples).max()))
    return (samples / loudest * 32_767).astype("<i2").tobytes()


if __name__ == "__main__":
    main()
