"""From the detector's map to boxes, and boxes to the order in which a person reads them. Needs numpy alone."""

import numpy as np

LIKELY, LIKELY_BOX = 0.3, 0.5
"""How likely a pixel must be to belong to a line, and all of a line's pixels in the mean."""
GROWTH = 1.6
"""A line's core grows by its area times this over its perimeter: what the training shrank it by."""
SMALLEST_SIDE = 3
MOST_BOXES = 1000
SAME_ROW = 0.5
"""Boxes whose heights overlap by so much of the smaller one stand in one row."""


def boxes_of(likely: np.ndarray) -> np.ndarray:
    """FP32 [height, width] of 0 to 1 → FP64 [boxes, 4]: left, top, right, bottom of each line."""
    mask = likely > LIKELY
    mask[1:] |= mask[:-1]  # as the training's own post-processing does: joins what a single pixel parts
    mask[:, 1:] |= mask[:, :-1]
    labels, count = components(mask)
    boxes = []
    if not count:
        return np.zeros((0, 4))
    rows, columns = np.nonzero(labels)
    found = labels[rows, columns]
    sides = np.zeros((count + 1, 4), dtype=np.int64)
    for side, (values, extreme) in enumerate(
        ((columns, np.minimum), (rows, np.minimum), (columns, np.maximum), (rows, np.maximum))
    ):
        sides[:, side] = np.iinfo(np.int64).max if extreme is np.minimum else -1
        extreme.at(sides[:, side], found, values)
    means = np.bincount(found, weights=likely[rows, columns], minlength=count + 1) / np.maximum(
        np.bincount(found, minlength=count + 1), 1
    )
    for number in range(1, min(count, MOST_BOXES) + 1):
        left, top, right, bottom = sides[number]
        width, height = right - left + 1, bottom - top + 1
        if min(width, height) < SMALLEST_SIDE or means[number] < LIKELY_BOX:
            continue
        grown = width * height * GROWTH / (2 * (width + height))
        boxes.append((left - grown, top - grown, right + 1 + grown, bottom + 1 + grown))
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected parts of a mask (8 neighbours): INT64 [height, width] of 0, 1 … count, and the count.

    Works on runs of pixels rather than on pixels: each row's runs are joined with those of the row above.
    """
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    edges = np.diff(padded, axis=1)
    run_rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]  # one past the last pixel
    parents = list(range(len(starts)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    bounds = np.searchsorted(run_rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        above, here = bounds[row - 1], bounds[row]
        while above < bounds[row] and here < bounds[row + 1]:
            if starts[above] <= ends[here] and starts[here] <= ends[above]:
                parents[root(here)] = root(above)
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    roots = np.array([root(run) for run in range(len(starts))], dtype=np.int64)
    labels = np.zeros(mask.shape, dtype=np.int64)
    names = {found: number for number, found in enumerate(dict.fromkeys(roots.tolist()), start=1)}
    for row, start, end, found in zip(run_rows, starts, ends, roots.tolist(), strict=True):
        labels[row, start:end] = names[found]
    return labels, len(names)


def in_reading_order(boxes: np.ndarray) -> list[list[np.ndarray]]:
    """The boxes row by row from the top, each row from the left."""
    rows: list[list[np.ndarray]] = []
    for box in sorted(boxes, key=lambda box: (box[1] + box[3], box[0])):
        last = rows[-1][-1] if rows else None
        if last is not None:
            shared = min(last[3], box[3]) - max(last[1], box[1])
            if shared >= SAME_ROW * min(last[3] - last[1], box[3] - box[1]):
                rows[-1].append(box)
                continue
        rows.append([box])
    return [sorted(row, key=lambda box: box[0]) for row in rows]
