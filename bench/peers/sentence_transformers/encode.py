"""sentence-transformers over a file of texts: python encode.py WEIGHTS IN OUT. It sorts them by length itself."""

from __future__ import annotations

import sys

import pyarrow as pa
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer

BATCH_TEXTS = 32  # its default

if __name__ == "__main__":
    weights, source, output = sys.argv[1:]
    model = SentenceTransformer(weights, device="cpu")
    texts = pq.read_table(source)["text"].to_pylist()
    found = model.encode(texts, batch_size=BATCH_TEXTS, normalize_embeddings=True, show_progress_bar=False)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), found.shape[1])
    pq.write_table(pa.table({"embedding": vectors}), output)
