/** A package, answering in the browser. */

/** What may be passed for an input: numbers and nested arrays of them, booleans, text, and files. */
export type Value = number | bigint | boolean | string | null | Value[] | ArrayBuffer | ArrayBufferView | Blob | Pixels;
/** Pixels that are decoded already: RGB, 8 bits a channel, row by row. */
export interface Pixels { data: Uint8Array; width: number; height: number }
export type Item = Record<string, Value>;
/**
 * An answer, as the server would give it: labels with scores, numbers, lists, text; null for a number that is none,
 * and a bigint for a whole number that JavaScript's own do not hold exactly.
 */
export type Answer = Record<string, unknown>;

export interface Field {
	name: string;
	/** A datatype of the Open Inference Protocol: "FP32", "INT64", "BYTES", … */
	datatype: string;
	/** Of one item; -1 is any size. */
	shape: number[];
	content: "value" | "text" | "image";
	units: string;
	minimum?: number;
	maximum?: number;
	categories?: string[];
	default?: number | string | boolean;
	required: boolean;
	/** Whether it is an output that is computed only when asked for. */
	on_request: boolean;
	description: string;
}

export interface OpenOptions {
	/** "auto" takes WebGPU where the bundle and the browser have it. */
	device?: "auto" | "wasm" | "webgpu";
	/** Of WASM; there is one unless the page is cross-origin isolated. */
	threads?: number;
	progress?: (state: { file: string; read_bytes: number; size_bytes: number }) => void;
}

export interface Model {
	readonly package: { name: string; version: string; digest: string; task: string; licence: string; description: string };
	readonly inputs: Field[];
	readonly outputs: Field[];
	/** What bundle.json says. */
	readonly bundle: Record<string, unknown>;
	readonly runtime: { device: "wasm" | "webgpu"; threads: number };
	/** Answer one item, or the bare value of the only input. Rejects with `OnwardError`. */
	answer(item: Item | Value, options?: { outputs?: string[] }): Promise<Answer>;
	/** Answer several, in order; rejects for all where one does not fit, and says which. */
	answers(items: (Item | Value)[], options?: { outputs?: string[] }): Promise<Answer[]>;
	/** The package's golden examples, files of their inputs as Blobs. */
	examples(): Promise<{ name: string; input: Item; answer: Answer }[]>;
	/** Run the golden examples; rejects where one is not answered as promised. */
	check(): Promise<{ examples: number; difference: number }>;
	/** Free the memory of the graphs. */
	close(): Promise<void>;
}

/** Open the package beside this module. Rejects with `OnwardError`. */
export function open(options?: OpenOptions): Promise<Model>;

export class OnwardError extends Error {
	/** Stable: the server's code for the same fault, such as "WRONG_DATATYPE". */
	readonly code: string;
	readonly field: string;
	readonly expected: string;
	readonly found: string;
}
