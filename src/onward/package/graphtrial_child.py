"""Loads ONNX graphs under limits and runs each once on zeros: a script, run in a process of its own by `graphtrial`.

    python -I graphtrial_child.py MEMORY_BYTES TIME_S FILE...

Exits with 3 and one line on stderr for a graph that cannot be loaded, or asks for more memory than there is. Imports
nothing of Onward. What a graph answers, and whether it takes zeros at all, is not looked at.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime

FREE_SIZE = 8
"""What a free dimension is tried with; the first one, of the batch, with 1."""

_MOST_ELEMENTS = 1 << 26
_OF_MEMORY = ("bad_alloc", "Failed to allocate", "failed to allocate", "MemoryError", "Out of memory", "length_error")
_DTYPES = {
    "bool": "?", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "int8": "i1", "int16": "i2",
    "int32": "i4", "int64": "i8", "float16": "f2", "float": "f4", "double": "f8", "string": "O",
}  # fmt: skip


def limit(memory_bytes: int, time_s: int) -> None:
    """Limit this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, time_s)):
        ceiling = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if ceiling < 0 else min(value, ceiling),) * 2)


def zeros(inputs: list[Any]) -> dict[str, Any] | None:
    """An input of zeros for each; None where that would be no small thing, or of a kind that nothing here makes."""
    feeds = {}
    for one in inputs:
        dtype = _DTYPES.get(one.type.removeprefix("tensor(").removesuffix(")"))
        free = [
            size if isinstance(size, int) and size > 0 else (FREE_SIZE if at else 1)
            for at, size in enumerate(one.shape)
        ]
        if dtype is None or int(np.prod(free, dtype=object)) > _MOST_ELEMENTS:
            return None
        feeds[one.name] = np.full(free, "", object) if dtype == "O" else np.zeros(free, dtype)
    return feeds


def try_out(file: str) -> str:
    """Load and run one; what is wrong with it, or nothing."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors share no public base class
        return f"it cannot be loaded: {error}"
    feeds = zeros(session.get_inputs())
    if feeds is None:
        return ""
    try:
        session.run(None, feeds)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return f"it takes too much memory: {text}" if any(sign in text for sign in _OF_MEMORY) else ""
    return ""


def main(arguments: list[str]) -> int:
    """Try out each file."""
    limit(int(arguments[0]), int(arguments[1]))
    for file in arguments[2:]:
        if problem := try_out(file):
            sys.stderr.write(f"{file}: {' '.join(problem.split())[:600]}\n")
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
