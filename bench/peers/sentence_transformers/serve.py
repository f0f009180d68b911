"""sentence-transformers behind FastAPI: what most teams write first. `BENCH_WEIGHTS` is the model's folder.

A plain function on the thread pool, as FastAPI advises for work that blocks; PyTorch with its own number of threads.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(os.environ["BENCH_WEIGHTS"], device="cpu")
application = FastAPI()


class Request(BaseModel):
    """The body of OpenAI's embeddings route, as far as it is used."""

    model: str
    input: list[str]


@application.get("/ready")
def ready() -> dict[str, bool]:
    """Answers once the module is imported, and so the model open."""
    return {"ready": True}


@application.post("/v1/embeddings")
def embeddings(request: Request) -> dict[str, Any]:
    """Every text's vector, of length 1."""
    vectors = model.encode(request.input, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    data = [{"object": "embedding", "index": at, "embedding": one.tolist()} for at, one in enumerate(vectors)]
    return {"object": "list", "data": data, "model": request.model}
