// The first step of inference: bring one item to the form the model was trained on, as the bundle says.

import { OnwardError, wrong } from "./errors.js";
import { checkFinite, checkInteger, checkNames, checkRange, described, fieldTensor, narrowed, shown, tensor, valueOf } from "./fields.js";
import { pixelsOf } from "./images.js";

const MAX_ENTITY_BYTES = 256;
const UNPRINTABLE = /\p{C}|\p{Zl}|\p{Zp}|(?! )\p{Zs}/u; // controls, lone surrogates, spaces other than the usual one

/**
 * What turns items into the model's tensors, one row each: `await prepare(item)` → {name: tensor}.
 * `read(file)` gives a file of the package as JSON; `graph(tensors)` runs the prepare graph, where there is one.
 */
export async function preparation({ inputs, prepare: steps, profile, defaults, limits }, { read, graph }) {
	const fields = Object.fromEntries(inputs.map((field) => [field.name, field]));
	const made = await Promise.all(steps.filter(({ step }) => step !== "graph").map((step) => hostStep(step, fields, { read, limits, graph })));
	const used = new Set(steps.flatMap((step) => step.columns ?? step.input ?? []));
	if (profile) used.add(profile);
	const values = inputs.filter(({ name }) => !used.has(name));
	return async (given) => {
		const item = filled(given, profile, defaults, inputs);
		checkNames(inputs, item);
		let tensors = {};
		for (const field of values) {
			const { datatype, data, dims } = fieldTensor(field, valueOf(field, item));
			tensors[field.name] = tensor(datatype, data, graph ? dims : [1, ...dims]);
		}
		for (const step of made) Object.assign(tensors, await step(item));
		if (graph) tensors = await graph(tensors);
		return tensors;
	};
}

/** With the features' defaults for inputs that are left out; there is no history on a device. */
function filled(item, profile, defaults, inputs) {
	if (!profile || item === null || typeof item !== "object") return item;
	const entity = Object.hasOwn(item, profile) ? item[profile] : undefined;
	if (entity !== undefined && entity !== null) {
		const length = typeof entity === "string" ? new TextEncoder().encode(entity).length : 0;
		if (typeof entity !== "string") throw wrong("WRONG_DATATYPE", profile, "text that names an entity", shown(entity));
		if (!length || length > MAX_ENTITY_BYTES || UNPRINTABLE.test(entity)) {
			throw wrong("INVALID_INPUT", profile, `1 to ${MAX_ENTITY_BYTES} bytes of printable text`, shown(entity));
		}
	}
	const isMissing = (name) => !Object.hasOwn(item, name) || item[name] === undefined || item[name] === null;
	const missing = inputs.filter(({ name }) => Object.hasOwn(defaults, name) && isMissing(name));
	return missing.length ? { ...item, ...Object.fromEntries(missing.map(({ name }) => [name, defaults[name]])) } : item;
}

function hostStep(step, fields, { read, limits, graph }) {
	if (step.step === "table") return table(step, step.columns.map((name) => fields[name]));
	if (step.step === "tokenize") return tokenize(step, fields[step.input], read);
	if (step.step === "decode_image") {
		const field = fields[step.input];
		return async (item) => {
			const { data, dims } = await pixelsOf(valueOf(field, item), { field: field.name, maxPixels: limits.pixels });
			return { [step.output]: tensor("UINT8", data, graph ? dims : [1, ...dims]) };
		};
	}
	throw new OnwardError("NOT_FOR_EDGE", `there is no prepare step ${step.step} here`);
}

/** Named scalar fields → one FP32 row [1, columns]; a category becomes its index. */
function table({ output, unknown }, columns) {
	const cell = (field, value) => {
		if (value === undefined) return NaN;
		if (field.categories) {
			const index = field.categories.indexOf(value);
			if (index < 0 && !(unknown === "nan" && typeof value === "string")) {
				throw wrong("WRONG_DATATYPE", field.name, described(field), shown(value));
			}
			return index < 0 ? NaN : index;
		}
		const isNumber = typeof value === "number" || typeof value === "bigint";
		if (field.datatype === "BOOL" ? typeof value !== "boolean" : !isNumber) {
			throw wrong("WRONG_DATATYPE", field.name, described(field), shown(value));
		}
		if (field.datatype.startsWith("F")) checkFinite(field.name, value);
		else if (field.datatype !== "BOOL") {
			if (typeof value !== "bigint" && !Number.isInteger(value)) throw wrong("WRONG_DATATYPE", field.name, described(field), shown(value));
			checkInteger(field, value);
		}
		return Number(value);
	};
	const bounds = columns.map(narrowed);
	return (item) => {
		const row = Float32Array.from(columns, (field) => cell(field, valueOf(field, item)));
		row.forEach((value, column) => checkRange(bounds[column], value));
		return { [output]: tensor("FP32", row, [1, columns.length]) };
	};
}

/** Text → INT64 [1, length] tensors, by the package's own tokenizer.json, cut at `max_tokens`. */
async function tokenize({ file, max_tokens: most, outputs }, field, read) {
	const { Tokenizer } = await import("./runtime/tokenizers.mjs");
	// The settings in the file are those of some training run; ours are the manifest's.
	const tokenizer = new Tokenizer({ ...(await read(file)), padding: null, truncation: null }, {});
	const ids = (text, around) => tokenizer.encode(text, { add_special_tokens: around }).ids;
	const room = most - ids("", true).length;
	return (item) => {
		const text = valueOf(field, item);
		if (typeof text !== "string") throw wrong("WRONG_DATATYPE", field.name, "text", shown(text));
		if (!text.isWellFormed()) throw wrong("WRONG_DATATYPE", field.name, "valid Unicode text", shown(text));
		let found = ids(text, true);
		if (found.length > most) found = shortened(found, ids(text, false), room);
		const row = BigInt64Array.from(found, BigInt);
		const columns = [row, new BigInt64Array(row.length).fill(1n), new BigInt64Array(row.length)];
		return Object.fromEntries(outputs.map((output, index) => [output, tensor("INT64", columns[index], [1, row.length])]));
	};
}

/** The tokens cut to what fits, between those that the tokenizer puts before and after a text. */
function shortened(whole, inner, room) {
	const before = whole.findIndex((_, start) => inner.every((id, index) => whole[start + index] === id));
	return [...whole.slice(0, before), ...inner.slice(0, room), ...whole.slice(before + inner.length)];
}
