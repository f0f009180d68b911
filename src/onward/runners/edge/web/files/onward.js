// A package, answering in the browser: prepare → execute → generate, with the server's answers.
//
//     import { open } from "./onward.js";
//     const model = await open();
//     console.log(await model.answer({ text: "Cancel my subscription." }));

import { collate, groups, rowOf } from "./batch.js";
import { OnwardError } from "./errors.js";
import { apart } from "./examples.js";
import { generation } from "./generate.js";
import { readJSON } from "./numbers.js";
import { preparation } from "./prepare.js";
import { deviceFor, runtime, session } from "./runtime.js";

export { OnwardError };

const TEXT = new TextDecoder("utf-8", { ignoreBOM: true }); // which keeps it, as the server does
const HERE = new URL("./", import.meta.url);

/** Open the package beside this module. `device`: "auto", "wasm" or "webgpu"; `threads` of WASM: as many as help. */
export async function open({ device = "auto", threads, progress = () => {} } = {}) {
	const bundle = await (await fetched("bundle.json")).json();
	const runsOn = await deviceFor(device, bundle.webgpu);
	const ready = runtime(runsOn, threads, bundle.files);
	const text = async (file) => TEXT.decode(await bytes(file, bundle));
	const read = async (file) => JSON.parse(await text(file));
	const graph = async (name) => session(await ready, await bytes(name, bundle, progress), { name });
	const { model: file, prepare_graph: before, generate_graph: after } = bundle;
	const [first, model, last] = await Promise.all([
		before ? graph(before) : undefined,
		bytes(file, bundle, progress).then(async (data) => session(await ready, data, { name: file, device: runsOn })),
		after ? graph(after) : undefined,
	]);
	const [prepare, generate] = await Promise.all([
		preparation(bundle, { read, graph: first && ((tensors) => first.run(tensors)) }),
		generation({ ...bundle, tensors: (last ?? model).outputs }, { read: text }),
	]);
	const { threads: count } = await ready;
	return new Model(bundle, { prepare, generate, graphs: { first, model, last }, runtime: { device: runsOn, threads: count } });
}

/** An open package. Call `answer` with an item: {input: value}, files as Blob, ArrayBuffer or Uint8Array. */
class Model {
	#parts;

	constructor(bundle, { runtime: where, ...parts }) {
		this.#parts = parts;
		this.bundle = bundle;
		this.package = bundle.package;
		this.inputs = bundle.inputs;
		this.outputs = bundle.outputs;
		this.runtime = where;
	}

	/** Answer one item; `outputs` adds outputs that are computed only on request. */
	async answer(item, options) {
		return (await this.answers([item], options))[0];
	}

	/** Answer several items, in order, run together as far as the package's largest batch allows. */
	async answers(items, { outputs = [] } = {}) {
		return (await this.#results(items, outputs)).map(({ answer }) => answer);
	}

	/** Each item's {answer, rows}: `tensors` are fetched besides what the answer is made of. */
	async #results(items, outputs, tensors = []) {
		const { prepare, generate, graphs } = this.#parts;
		const made = (graphs.last ?? graphs.model).outputs;
		const fetches = [...new Set([...generate.fetches(outputs), ...tensors.filter((name) => made.includes(name))])];
		const own = generate.fetches(outputs);
		const { max_batch_size: most, pad } = this.bundle.batching;
		const prepared = [];
		for (const [index, item] of items.entries()) {
			prepared.push(await prepare(this.#named(item)).catch((error) => { throw items.length > 1 ? at(index, error) : error; }));
		}
		const results = [];
		for (const group of groups(prepared, most, pad)) {
			const found = await this.#execute(collate(group, pad), fetches);
			group.forEach((_, row) => {
				const rows = Object.fromEntries(fetches.map((name) => [name, rowOf(found[name], row)]));
				const used = Object.fromEntries(own.map((name) => [name, rows[name]]));
				results.push({ answer: generate.answer(used, outputs), rows });
			});
		}
		return results;
	}

	/** Run the golden examples: how many there are, and how far the numbers are from what they promise, at most. */
	async check() {
		const examples = await this.examples();
		const names = new Set(this.outputs.map(({ name }) => name));
		let difference = 0;
		for (const example of examples) {
			const tensors = Object.keys(example.tensors);
			const asked = [...Object.keys(example.answer), ...tensors].filter((name) => names.has(name));
			const [{ answer, rows }] = await this.#results([example.input], [...new Set(asked)], tensors);
			difference = Math.max(difference, apart(example, answer, rows));
		}
		return { examples: examples.length, difference };
	}

	/** The golden examples, with the files of their inputs. */
	async examples() {
		const told = readJSON(TEXT.decode(await bytes("examples.json", this.bundle)));
		const value = async (one) => (one?.file ? this.#blob(one.file) : one);
		const input = async (given) => Object.fromEntries(await Promise.all(Object.entries(given).map(async ([name, one]) => [name, await value(one)])));
		return Promise.all(told.map(async (example) => ({ ...example, input: await input(example.input) })));
	}

	/** Free the memory of the graphs. */
	async close() {
		await Promise.all(Object.values(this.#parts.graphs).map((graph) => graph?.close()));
	}

	async #blob(file) {
		const { type } = this.bundle.files.find(({ path }) => path === `package/${file}`);
		return new Blob([await bytes(file, this.bundle)], { type });
	}

	/** A bare value stands for the only input: all that is no plain object, and the pixels of a picture. */
	#named(item) {
		const [only, ...others] = this.inputs;
		const isPlain = item !== null && typeof item === "object" && [Object.prototype, null].includes(Object.getPrototypeOf(item));
		const arePixels = isPlain && only.content === "image" && ArrayBuffer.isView(item.data) && item.width > 0;
		return (!isPlain || arePixels) && !others.length ? { [only.name]: item } : item;
	}

	async #execute(feeds, fetches) {
		const { model, last } = this.#parts.graphs;
		return last ? last.run(await model.run(feeds, last.inputs), fetches) : model.run(feeds, fetches);
	}
}

function at(index, error) {
	if (!(error instanceof OnwardError)) return error;
	const { code, field, expected, found } = error;
	return Object.assign(new OnwardError(code, error.message), { field: `[${index}] ${field}`.trim(), expected, found });
}

async function fetched(path) {
	let response;
	try {
		response = await fetch(new URL(path, HERE), { cache: "no-cache" }); // no older export's, while the host has another
	} catch (error) {
		throw new OnwardError("NOT_READY", `${path} cannot be read: ${error.message}`);
	}
	if (!response.ok) {
		const { code = "NOT_READY", error = `the host answers ${response.status}` } = await response.json().catch(() => ({}));
		throw new OnwardError(code, `${path} cannot be read: ${error}`);
	}
	return response;
}

/** A file of the package, checked by its digest; `progress({file, read_bytes, size_bytes})` is told while it comes. */
async function bytes(name, { files }, progress = () => {}) {
	const path = `package/${name}`;
	const known = files.find((file) => file.path === path);
	if (!known) throw new OnwardError("DIGEST_MISMATCH", `bundle.json does not name ${path}`);
	const { size_bytes, sha256 } = known;
	const response = await fetched(path);
	const data = new Uint8Array(size_bytes);
	let read_bytes = 0;
	for await (const part of chunks(response.body)) {
		read_bytes += part.length;
		if (read_bytes > size_bytes) break;
		data.set(part, read_bytes - part.length);
		progress({ file: name, read_bytes, size_bytes });
	}
	const found = read_bytes === size_bytes ? await digest(data) : `${read_bytes} bytes`;
	if (found && found !== sha256) {
		throw new OnwardError("DIGEST_MISMATCH", `${path} is not what bundle.json says`, { expected: sha256, found });
	}
	return data;
}

/** The SHA-256 in hex, undefined where a page without HTTPS may not compute one. */
async function digest(data) {
	const found = await globalThis.crypto.subtle?.digest("SHA-256", data);
	return found && Array.from(new Uint8Array(found), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Not every browser can iterate over a stream.
async function* chunks(stream) {
	const reader = stream.getReader();
	for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}
