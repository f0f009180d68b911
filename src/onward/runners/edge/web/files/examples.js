// How far an answer is from what a golden example promises.

import { OnwardError } from "./errors.js";

/** The largest difference of numbers, over their size where that is above 1; raises where it is beyond the tolerance. */
export function apart({ name, answer, tensors, tolerance }, found) {
	let largest = 0;
	const refuse = (path, expected, value) => {
		const options = { expected: JSON.stringify(expected), found: JSON.stringify(value) };
		throw new OnwardError("GOLDEN_EXAMPLE_FAILED", `example "${name}", ${path}`, options);
	};
	const compare = (path, expected, value) => {
		if (typeof expected === "number" && typeof value === "number") {
			const off = expected === value ? 0 : Math.abs(expected - value) / Math.max(1, Math.abs(expected));
			if (!(off <= tolerance)) refuse(path, expected, value);
			largest = Math.max(largest, off);
		} else if (expected !== null && typeof expected === "object" && value !== null && typeof value === "object") {
			if (Array.isArray(expected) && expected.length !== value.length) refuse(path, expected, value);
			for (const key of Object.keys(expected)) compare(`${path}.${key}`, expected[key], value[key]);
		} else if (expected !== value) refuse(path, expected, value);
	};
	compare("answer", answer, found);
	for (const [output, expected] of Object.entries(tensors)) {
		const value = found[output];
		// Written with the row dimension or without it; an output with names of its own is read in their order.
		const row = value !== null && typeof value === "object" && !Array.isArray(value) ? Object.values(value) : value;
		if (row !== undefined) compare(output, isRow(expected, row) ? expected[0] : expected, row);
	}
	return largest;
}

const depth = (value) => (Array.isArray(value) ? 1 + depth(value[0]) : 0);
const isRow = (expected, row) => depth(expected) === depth(row) + 1 && expected.length === 1;
