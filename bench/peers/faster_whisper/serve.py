"""faster-whisper behind FastAPI: one model, a plain function on the thread pool. `BENCH_WEIGHTS` is the model's folder.

Greedy and in int8, as Onward's package runs; the rest as faster-whisper has it.
"""

from __future__ import annotations

import os

from fastapi import FastAPI, UploadFile
from faster_whisper import WhisperModel

model = WhisperModel(
    os.environ["BENCH_WEIGHTS"],
    device="cpu",
    compute_type="int8",
    cpu_threads=int(os.environ["BENCH_THREADS"]),
    num_workers=int(os.environ["BENCH_WORKERS"]),
)
application = FastAPI()


@application.get("/ready")
def ready() -> dict[str, bool]:
    """Answers once the module is imported, and so the model open."""
    return {"ready": True}


@application.post("/v1/audio/transcriptions")
def transcriptions(file: UploadFile) -> dict[str, str]:
    """What is said in a file."""
    segments, _ = model.transcribe(file.file, language="en", beam_size=1)
    return {"text": " ".join(segment.text.strip() for segment in segments)}
