// How far an answer is from what a golden example promises.

import { OnwardError } from "./errors.js";
import { writeJSON } from "./numbers.js";

/**
 * The largest difference of numbers, over their size where that is above 1, of the answer and of the example's tensors
 * among `rows`; raises where it is beyond the tolerance. null stands for a number that is none.
 */
export function apart({ name, answer, tensors, tolerance }, found, rows) {
	let largest = 0;
	const refuse = (path, expected, value) => {
		const options = { expected: writeJSON(expected), found: writeJSON(value) ?? "nothing" };
		throw new OnwardError("GOLDEN_EXAMPLE_FAILED", `example "${name}", ${path}`, options);
	};
	const compare = (path, expected, value) => {
		if (isNumber(expected) && isNumber(value)) {
			const off = expected === value ? 0 : Math.abs(Number(expected) - Number(value)) / Math.max(1, Math.abs(Number(expected)));
			if (!(off <= tolerance)) refuse(path, expected, value);
			largest = Math.max(largest, off);
		} else if (isObject(expected) && isObject(value)) {
			if (Array.isArray(expected) && expected.length !== value.length) refuse(path, expected, value);
			for (const key of Object.keys(expected)) compare(`${path}.${key}`, expected[key], value[key]);
		} else if (expected !== value && !(expected === null && typeof value === "number" && !Number.isFinite(value))) {
			refuse(path, expected, value);
		}
	};
	compare("answer", answer, found);
	for (const [output, expected] of Object.entries(tensors)) {
		// Written with the row dimension or without it.
		const row = rows[output];
		compare(`tensor "${output}"`, depth(expected) === depth(row) + 1 && expected.length === 1 ? expected[0] : expected, row);
	}
	return largest;
}

const isNumber = (value) => typeof value === "number" || typeof value === "bigint";
const isObject = (value) => value !== null && typeof value === "object";
const depth = (value) => (Array.isArray(value) ? 1 + depth(value[0]) : 0);
