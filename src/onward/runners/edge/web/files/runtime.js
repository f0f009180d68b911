// onnxruntime in the browser: WASM with as many threads as the page may have, WebGPU for the model where there is one.

import { OnwardError } from "./errors.js";
import { DATATYPES } from "./fields.js";

const MOST_THREADS = 4; // more of them wait for each other longer than they compute
const DATATYPE_OF = Object.fromEntries(Object.entries(DATATYPES).map(([datatype, [type]]) => [type, datatype]));
let loaded; // the one WASM runtime of this thread, with or without WebGPU

/** Which device runs the model: "webgpu" where the bundle has it and the browser a real one, else "wasm". */
export async function deviceFor(wanted, hasWebgpu) {
	if (wanted === "wasm") return "wasm";
	const canWait = "Suspending" in WebAssembly; // the WebGPU runtime awaits the device inside WASM
	const adapter = hasWebgpu && canWait ? await navigator.gpu?.requestAdapter().catch(() => null) : null;
	if (wanted === "webgpu" && !adapter) {
		const found = hasWebgpu ? "none in this browser" : "a bundle without it";
		throw new OnwardError("PROVIDER_MISSING", "the model cannot run on WebGPU here", { expected: "a WebGPU adapter", found });
	}
	// A fallback adapter is the processor in disguise, many times slower than WASM.
	return adapter && (wanted === "webgpu" || !adapter.info?.isFallbackAdapter) ? "webgpu" : "wasm";
}

/**
 * Load the runtime once; later calls get the same one. Its files are asked for by their digests: browsers may keep them, and
 * their compiled code, for as long as the host allows, and never take those of another export for these.
 */
export async function runtime(device, threads, files) {
	if (loaded) return loaded;
	const from = (name) => {
		const { path, sha256 } = files.find((file) => file.path === `runtime/${name}`);
		return new URL(`${path}?${sha256.slice(0, 16)}`, import.meta.url).href;
	};
	const [main, own] = device === "webgpu" ? ["ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi"] : ["ort.wasm.min.mjs", "ort-wasm-simd-threaded"];
	const ort = await import(from(main));
	ort.env.wasm.wasmPaths = { mjs: from(`${own}.mjs`), wasm: from(`${own}.wasm`) };
	ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? threads ?? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
	ort.env.logLevel = "error";
	loaded = { ort, threads: ort.env.wasm.numThreads };
	return loaded;
}

/** A graph, ready to run: `run({name: tensor}, names)` → {name: tensor}. */
export async function session({ ort }, bytes, { device = "wasm", name }) {
	let graph;
	try {
		// Prepare graphs always run on WASM, where they give what the server's give.
		const executionProviders = device === "webgpu" ? ["webgpu", "wasm"] : ["wasm"];
		graph = await ort.InferenceSession.create(bytes, { executionProviders, logSeverityLevel: 3 });
	} catch (error) {
		throw new OnwardError("REFUSED_GRAPH", `${name} could not be loaded: ${error.message}`);
	}
	let last = Promise.resolve(); // a session runs one batch at a time
	const run = async (tensors, fetches) => {
		const feeds = {};
		for (const wanted of graph.inputNames) {
			const { datatype, data, dims } = tensors[wanted];
			feeds[wanted] = new ort.Tensor(DATATYPES[datatype][0], data, dims);
		}
		let found;
		try {
			found = await graph.run(feeds, fetches);
		} catch (error) {
			throw new OnwardError("EXECUTION_FAILED", `the model failed on this input: ${error.message}`);
		}
		return Object.fromEntries(fetches.map((one) => [one, { datatype: DATATYPE_OF[found[one].type], data: found[one].data, dims: found[one].dims }]));
	};
	return {
		inputs: graph.inputNames,
		outputs: graph.outputNames,
		run: (tensors, fetches = graph.outputNames) => {
			const own = last.then(() => run(tensors, fetches));
			last = own.catch(() => {});
			return own;
		},
		close: () => graph.release(),
	};
}
