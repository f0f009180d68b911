// Form one batch's tensors from many items' rows, and cut the answers apart again.

import { DATATYPES, tensor } from "./fields.js";

/** Neighbours that can run together, up to `most` rows: tensors of equal shape but for those that are padded. */
export function groups(prepared, most, pad) {
	const key = (tensors) => JSON.stringify(Object.keys(tensors).filter((name) => !(name in pad)).map((name) => tensors[name].dims.slice(1)));
	const made = [];
	for (const tensors of prepared) {
		const last = made.at(-1);
		if (last && last.length < most && key(last[0]) === key(tensors)) last.push(tensors);
		else made.push([tensors]);
	}
	return made;
}

/** The rows of several items below each other; tensors named in `pad` are filled up to the longest. */
export function collate(group, pad) {
	if (group.length === 1) return group[0];
	return Object.fromEntries(Object.keys(group[0]).map((name) => [name, stacked(group.map((item) => item[name]), pad[name])]));
}

function stacked(rows, pad) {
	const [{ datatype, dims }] = rows;
	const [, Values] = DATATYPES[datatype];
	const shape = [...dims.slice(1)];
	if (pad !== undefined) shape[0] = Math.max(...rows.map((row) => row.dims[1]));
	const length = shape.reduce((product, side) => product * side, 1);
	const data = new Values(rows.length * length);
	if (pad) data.fill(typeof data[0] === "bigint" ? BigInt(pad) : pad);
	rows.forEach((row, index) => row.data.forEach((value, place) => { data[index * length + place] = value; }));
	return tensor(datatype, data, [rows.length, ...shape]);
}

/** Row `index` of a tensor as JSON can hold it: nested arrays of numbers, booleans or text. */
export function rowOf({ datatype, data, dims }, index) {
	const length = dims.slice(1).reduce((product, side) => product * side, 1);
	const flat = Array.from(data.slice(index * length, (index + 1) * length), READ[datatype] ?? ((value) => value));
	let nested = flat;
	for (const side of dims.slice(2).reverse()) {
		nested = Array.from({ length: nested.length / side }, (_, part) => nested.slice(part * side, (part + 1) * side));
	}
	return dims.length === 1 ? flat[0] : nested;
}

const whole = (value) => (Number.isSafeInteger(Number(value)) ? Number(value) : value);
const READ = { BOOL: Boolean, INT64: whole, UINT64: whole };
