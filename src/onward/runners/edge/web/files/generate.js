// The third step of inference: from the model's numbers to what a person reads.

import { OnwardError, wrong } from "./errors.js";

/**
 * What makes the answer of one item from its row of the outputs.
 * `tensors` are the last graph's outputs by name; `read(file)` gives a text file of the package.
 */
export async function generation({ outputs, generate: steps, tensors }, { read }) {
	const known = new Set(tensors);
	const labels = new Map();
	const named = new Map();
	const catalogues = new Map();
	const json = new Set();
	const hidden = new Set();
	for (const step of steps) {
		if (step.step === "labels") {
			const text = await read(step.file);
			labels.set(step.scores, { ...step, names: text ? text.replace(/\r\n?/g, "\n").replace(/\n$/, "").split("\n") : [] });
			for (const name of [step.scores, step.indices]) hidden.add(name);
		} else if (step.step === "named") named.set(step.input, step);
		else if (step.step === "json") json.add(step.input);
		else if (step.step === "catalogue") {
			const lines = (await read(step.file)).split("\n").filter((line) => line.trim());
			const records = new Map(lines.map((line) => JSON.parse(line)).map((record) => [record.id, record]));
			catalogues.set(step.ids, { ...step, records });
			for (const name of tensorsOf(step)) hidden.add(name);
		}
	}
	const fields = outputs.map(({ name }) => name);

	/** The tensors to compute for the default outputs, those requested, and the labels made of them. */
	const fetches = (requested = []) => {
		const unknown = requested.find((name) => !fields.includes(name));
		if (unknown !== undefined) throw wrong("UNKNOWN_OUTPUT", unknown, `one of ${fields.join(", ")}`, JSON.stringify(unknown));
		const wanted = outputs.filter((field) => !field.on_request || requested.includes(field.name)).map(({ name }) => name);
		for (const { output, scores, indices } of labels.values()) {
			const own = [output, "score", `${output}s`].filter((name) => fields.includes(name) && !known.has(name));
			// A label that no output names is part of every answer; one that is named follows its `on_request`.
			if (!own.length || own.some((name) => wanted.includes(name))) wanted.push(scores, indices);
		}
		for (const step of catalogues.values()) wanted.push(...tensorsOf(step));
		wanted.push(...[...named.keys()].filter((name) => !fields.includes(name)));
		return [...new Set(wanted)].filter((name) => known.has(name));
	};

	/** The answer from {output: nested numbers of one item}. */
	const answer = (rows, requested = []) => {
		const made = {};
		for (const [name, row] of Object.entries(rows)) {
			if (labels.has(name)) Object.assign(made, labelled(row, rows, labels.get(name)));
			if (catalogues.has(name)) made[catalogues.get(name).output] = recorded(rows, catalogues.get(name));
			if (named.has(name)) made[name] = Object.fromEntries(named.get(name).names.map((key, index) => [key, row[index]]));
			else if (json.has(name)) made[name] = parsed(name, row);
			else if (!hidden.has(name) || requested.includes(name)) made[name] = row;
		}
		return told(made);
	};
	return { fetches, answer };
}

/** Numbers that are none are null, as in the server's JSON. */
function told(value) {
	if (typeof value === "number") return Number.isFinite(value) ? value : null;
	if (Array.isArray(value)) return value.map(told);
	if (value === null || typeof value !== "object") return value;
	return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, told(one)]));
}

const tensorsOf = ({ ids, scores, because, reason }) => [ids, scores, because, reason].filter(Boolean);

function labelled(row, rows, { indices: from, names, output, top_k: most, file }) {
	// Best first, equals in their order, and what is no number last.
	const order = from ? [] : row.map((_, index) => index).sort((a, b) => isNaN(row[a]) - isNaN(row[b]) || row[b] - row[a] || a - b);
	const indices = (from ? rows[from] : order).slice(0, most);
	const scores = from ? row.slice(0, most) : indices.map((index) => row[index]);
	const beyond = indices.find((index) => !(index in names));
	if (beyond !== undefined) {
		const expected = `0 to ${names.length - 1}, as ${file} has labels`;
		throw new OnwardError("EXECUTION_FAILED", "the model gave an index without a label", { expected, found: String(beyond) });
	}
	const found = indices.map((index, place) => ({ [output]: names[index], score: scores[place] }));
	return { [output]: names[indices[0]], score: scores[0], [`${output}s`]: found };
}

function recorded(rows, { ids, scores, because, reason, reasons, records, top_k: most }) {
	const found = [];
	for (const [place, number] of rows[ids].entries()) {
		const record = records.get(Number(number));
		if (!record) continue;
		const entry = { ...record };
		if (scores) entry.score = rows[scores][place];
		if (reason) entry.reason = reasonOf(reasons, rows[reason][place], records.get(because && Number(rows[because][place])) ?? {});
		if (found.push(entry) === most) break;
	}
	return found;
}

function reasonOf(texts, number, about) {
	if (!(number in texts)) {
		const expected = `0 to ${texts.length - 1}, as there are reasons`;
		throw new OnwardError("EXECUTION_FAILED", "the model gave a reason without a text", { expected, found: String(number) });
	}
	// A key that the record lacks stays as it is written: a person sees what is missing.
	return texts[number].replace(/\{([A-Za-z_][A-Za-z0-9_]*)\}/g, (written, key) => (Object.hasOwn(about, key) ? word(about[key]) : written));
}

/** A record's value inside a text: text as it is, all else as JSON. */
const word = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function parsed(name, row) {
	try {
		return JSON.parse(row);
	} catch {
		throw new OnwardError("EXECUTION_FAILED", `the model's output "${name}" is not JSON`, { expected: "JSON text" });
	}
}
