// Bring one value to the datatype and shape that its field declares, or say precisely why it does not fit.

import { wrong } from "./errors.js";
import { writeJSON } from "./numbers.js";

/** Datatypes of the Open Inference Protocol, and how onnxruntime and JavaScript hold them. */
export const DATATYPES = {
	BOOL: ["bool", Uint8Array],
	UINT8: ["uint8", Uint8Array],
	UINT16: ["uint16", Uint16Array],
	UINT32: ["uint32", Uint32Array],
	UINT64: ["uint64", BigUint64Array],
	INT8: ["int8", Int8Array],
	INT16: ["int16", Int16Array],
	INT32: ["int32", Int32Array],
	INT64: ["int64", BigInt64Array],
	FP32: ["float32", Float32Array],
	FP64: ["float64", Float64Array],
	BYTES: ["string", Array],
};
const LARGEST_FP32 = 3.4028234663852886e38;
const BITS = /\d+$/;

/** A tensor: `data` in a typed array (text in an array), `dims` its shape. */
export const tensor = (datatype, data, dims) => ({ datatype, data, dims });

/** Check the names of an item: none unknown, none missing. */
export function checkNames(fields, item) {
	if (item === null || typeof item !== "object" || Array.isArray(item) || ArrayBuffer.isView(item)) {
		const expected = `an object with ${fields.slice(0, 12).map(({ name }) => name).join(", ")}`;
		throw wrong("INVALID_INPUT", "", expected, shown(item));
	}
	const names = fields.map(({ name }) => name);
	const unknown = Object.keys(item).find((name) => !names.includes(name));
	if (unknown !== undefined) throw wrong("UNKNOWN_INPUT", unknown, `one of ${names.toSorted().join(", ")}`, JSON.stringify(unknown));
	for (const field of fields) {
		if (field.required && field.default === undefined && !Object.hasOwn(item, field.name)) {
			throw wrong("MISSING_INPUT", field.name, described(field));
		}
	}
}

/** The item's value, or the default where it is missing or null; undefined for an optional field without one. */
export function valueOf(field, item) {
	const value = (Object.hasOwn(item, field.name) ? item[field.name] : undefined) ?? field.default;
	if (value === undefined && field.required) throw wrong("MISSING_INPUT", field.name, described(field));
	return value;
}

/** The value as a tensor of the field's datatype and shape; NaN for an optional number that is missing. */
export function fieldTensor(field, value) {
	const { name, datatype, shape } = field;
	const [, Values] = DATATYPES[datatype];
	if (value === undefined && datatype.startsWith("FP") && !shape.includes(-1)) {
		return tensor(datatype, new Values(size(shape)).fill(NaN), shape);
	}
	const [flat, dims] = flattened(field, value, shape);
	// In the server's order: all types, then what the datatype holds, then the shape, then the field's range.
	for (const one of flat) checkType(field, one);
	const numbers = flat.map((one) => held(field, one));
	const fits = dims.length === shape.length && dims.every((length, axis) => shape[axis] === -1 || shape[axis] === length);
	if (!fits) throw wrong("WRONG_SHAPE", name, `shape ${JSON.stringify(shape)}`, `shape ${JSON.stringify(dims)}`);
	const data = Values === Array ? numbers : Values.from(numbers);
	const bounds = datatype === "FP32" ? narrowed(field) : field;
	if (datatype !== "BYTES") data.forEach((one) => checkRange(bounds, Number(one)));
	return tensor(datatype, data, dims);
}

/** Raise where a number lies outside the field's allowed range; NaN (missing) passes. */
export function checkRange({ name, minimum, maximum }, value) {
	if (!(value < minimum) && !(value > maximum)) return;
	const expected = maximum === undefined ? `at least ${minimum}` : minimum === undefined ? `at most ${maximum}` : `${minimum} to ${maximum}`;
	throw wrong("OUT_OF_RANGE", name, expected, String(value));
}

/** The field with its range as FP32 holds it: what is compared has been rounded, too. */
export function narrowed({ name, minimum, maximum }) {
	const narrow = (bound) => (bound === undefined ? bound : Math.fround(bound));
	return { name, minimum: narrow(minimum), maximum: narrow(maximum) };
}

/** A field's type in words: `FP32 of shape [3]`. */
export function described({ datatype, shape, content, categories }) {
	if (categories) return `one of ${categories.join(", ")}`;
	const word = { text: "text", image: "an image file", audio: "an audio file" }[content];
	return word ?? (shape.length ? `${datatype} of shape ${JSON.stringify(shape)}` : `one ${datatype}`);
}

/** A value as found, short enough for an error message. */
export function shown(value) {
	const kind = value === null ? "null" : Array.isArray(value) ? "array" : (value?.constructor?.name ?? typeof value);
	let text;
	try {
		text = typeof value === "string" ? JSON.stringify(value.slice(0, 100)) : writeJSON(value) ?? String(value);
	} catch {
		text = String(value);
	}
	return `${kind} ${text.length <= 60 ? text : `${text.slice(0, 57)}...`}`;
}

const size = (shape) => shape.reduce((product, length) => product * length, 1);

/** The elements of nested arrays in order, and their shape; a typed array takes the field's own. */
function flattened(field, value, shape) {
	if (ArrayBuffer.isView(value) && field.datatype !== "BYTES") {
		const known = size(shape);
		return [Array.from(value), shape.length !== 1 && known === value.length ? shape : [value.length]];
	}
	const dims = [];
	for (let part = value; Array.isArray(part); part = part[0]) dims.push(part.length);
	const flat = dims.length ? value.flat(dims.length - 1) : [value];
	const ragged = (part, depth) =>
		depth < dims.length && (!Array.isArray(part) || part.length !== dims[depth] || part.some((one) => ragged(one, depth + 1)));
	if (ragged(value, 0) || flat.some(Array.isArray)) throw wrong("WRONG_SHAPE", field.name, described(field), "a ragged list");
	return [flat, dims];
}

function checkType(field, value) {
	const { name, datatype } = field;
	const kind = typeof value;
	const isWhole = kind === "bigint" || Number.isInteger(value);
	const fits = datatype === "BYTES" ? kind === "string" : datatype === "BOOL" ? kind === "boolean"
		: datatype.startsWith("FP") ? kind === "number" || kind === "bigint" : isWhole;
	if (!fits) throw wrong("WRONG_DATATYPE", name, described(field), shown(value));
	if (kind === "string" && !value.isWellFormed()) throw wrong("WRONG_DATATYPE", name, "valid Unicode text", shown(value));
}

/** One element of the right type, as the datatype holds it. */
function held(field, value) {
	const { name, datatype } = field;
	if (datatype === "BYTES") return value;
	if (datatype === "BOOL") return Number(value);
	if (!datatype.startsWith("FP")) {
		checkInteger(field, value);
		return datatype.endsWith("64") ? BigInt(value) : Number(value);
	}
	const real = Number(value);
	const rounded = datatype === "FP32" ? Math.fround(real) : real;
	const wasFinite = typeof value === "bigint" || Number.isFinite(value);
	if (wasFinite && !Number.isFinite(rounded)) throw wrong("OUT_OF_RANGE", name, `numbers that fit ${datatype}`, shown(value));
	return real;
}

/** A table's cell: what is finite may not be more than FP32 holds. */
export function checkFinite(name, value) {
	const isFinite = typeof value === "bigint" || Number.isFinite(value);
	if (isFinite && Math.abs(Number(value)) > LARGEST_FP32) throw wrong("OUT_OF_RANGE", name, "numbers that fit FP32", shown(value));
}

/** An integer fits its datatype. */
export function checkInteger({ name, datatype }, value) {
	const bits = BigInt(BITS.exec(datatype)[0]);
	const isSigned = datatype.startsWith("INT");
	const least = isSigned ? -(1n << (bits - 1n)) : 0n;
	const most = isSigned ? (1n << (bits - 1n)) - 1n : (1n << bits) - 1n;
	if (value < least || value > most) throw wrong("OUT_OF_RANGE", name, `${least} to ${most}`, String(value));
}
