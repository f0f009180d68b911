"""Numbers in few bits: how a matrix of weights is rounded. Knows nothing of graphs.

Scales are symmetric about zero, so a weight of zero stays zero. Matrices are (outputs, inputs): a row is one output.
"""

from __future__ import annotations

import numpy as np

from onward.types import Array

BLOCK = 32
"""Inputs that share a scale where a row has several: as few as onnxruntime's products of blocks are fast for."""
STORED = 16
"""The same where nothing is multiplied in blocks: finer, for a model of pictures changes its mind by little."""
_SMALLEST = 1e-12
_WORTH_A_SCALE = 8


def in_rows(matrix: Array, bits: int = 8) -> tuple[Array, Array]:
    """A scale for each row: int8 of the matrix's shape, within ± 2^(bits - 1) - 1, and float32 (rows, 1)."""
    most = 2 ** (bits - 1) - 1
    flat = matrix.reshape(len(matrix), -1)
    scale = np.maximum(np.abs(flat).max(axis=1, keepdims=True), _SMALLEST).astype(np.float32) / np.float32(most)
    return np.clip(np.rint(flat / scale), -most, most).astype(np.int8).reshape(matrix.shape), scale


def in_blocks(matrix: Array, bits: int, block: int = BLOCK) -> tuple[Array, Array]:
    """A scale for each `block` inputs of a row: uint8 (rows, blocks, bytes) about 2^(bits - 1), float32 (rows, blocks).

    The last block is filled up with zeros. Two weights of 4 bits share a byte, the first in its lower half.
    """
    rows, inputs = matrix.shape
    blocks = -(-inputs // block)
    padded = np.zeros((rows, blocks * block), np.float32)
    padded[:, :inputs] = matrix
    padded = padded.reshape(rows, blocks, block)
    middle = 2 ** (bits - 1)
    # One side reaches one step further than the other: the block's largest weight lies on that one.
    place = np.abs(padded).argmax(axis=2)[..., None]
    scale = np.take_along_axis(padded, place, axis=2)[..., 0] / -np.float32(middle)
    scale = np.where(np.abs(scale) < _SMALLEST, np.float32(_SMALLEST), scale).astype(np.float32)
    steps = np.clip(np.rint(padded / scale[..., None]) + middle, 0, 2 * middle - 1).astype(np.uint8)
    return (steps if bits == 8 else steps[..., 0::2] | (steps[..., 1::2] << 4)), scale


def dividing(inputs: int) -> int:
    """The largest block up to `STORED` that a row of so many inputs is made of; the row where that is too small."""
    block = next(size for size in range(min(STORED, inputs), 0, -1) if inputs % size == 0)
    return block if block >= _WORTH_A_SCALE else inputs
