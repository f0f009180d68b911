// Who answers this page: the package itself, in this browser.

import { camera } from "./camera.js";
import { table } from "./csv.js";
import { command, keepAll, start } from "./device.js";
import { listening } from "./listening.js";
import { readJSON } from "./numbers.js";

export const sameTitle = "The same in JavaScript";
export const nothingYet = () => failure ?? "The package cannot be opened.";
const MB = 1e6;
let bundle;
let failure;
let runsOn;
let stops = []; // what ends the camera and the microphone of the cards that are shown

const say = (text) => { document.getElementById("device").textContent = text; };

/** The one model there is. */
export async function models() {
	if (failure) return undefined;
	try {
		const opened = await start(({ file, read_bytes: read, size_bytes: size }) => {
			say(`Reading ${file}: ${Math.round(read / MB)} of ${Math.round(size / MB)} MB`);
		});
		bundle = opened.bundle;
		const { device, threads } = opened.runtime;
		runsOn = device;
		const where = device === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
		say(`Runs on this device: ${where}`);
		keepAll().then((isKept) => say(`Runs on this device: ${where} · ${isKept ? "works offline" : "needs its host"}`));
	} catch (error) {
		failure = `The package cannot be opened here: ${error.error ?? error}`;
		say("No answer is possible");
		return undefined;
	}
	const { package: about, inputs, outputs } = bundle;
	return [{ name: about.name, versions: [about.version], package: about, fields: { inputs, outputs } }];
}

export const examples = async () => (await command("examples")).map((example) => ({ ...example, input: filesOf(example) }));

/** Files of examples with a name, for the form. */
function filesOf({ name, input }) {
	const file = (value) => Object.assign(new File([value], `${name.replace(/[^\w.-]+/g, "-")}.${value.type.split("/").at(-1)}`, { type: value.type }), { isExample: true });
	return Object.fromEntries(Object.entries(input).map(([key, value]) => [key, value instanceof Blob ? file(value) : value]));
}

export async function ask(path, names, question) {
	try {
		const answer = await command("answer", itemOf(question), { outputs: names });
		return { ok: true, value: { answer: legible(answer), package: bundle.package.name, version: bundle.package.version } };
	} catch (error) {
		return { ok: false, value: error };
	}
}

/** Whole numbers beyond JavaScript's own, as the page can show them: their digits. */
const legible = (answer) => JSON.parse(JSON.stringify(answer, (_, one) => (typeof one === "bigint" ? String(one) : one)));

const itemOf = ({ parts, files }) => ({
	...Object.fromEntries(parts.map(([name, text]) => [name, readJSON(text)])),
	...Object.fromEntries(files.map(([{ name }, file]) => [name, file])),
});

export function same(path, names, { parts, files }) {
	const members = [...parts.map(([name, text]) => `${JSON.stringify(name)}: ${text}`), ...files.map(([{ name }]) => `${JSON.stringify(name)}: file`)];
	const options = names.length ? `, { outputs: ${JSON.stringify(names)} }` : "";
	return `import { open } from "./onward.js";\n\nconst model = await open();\nconst answer = await model.answer({ ${members.join(", ")} }${options});`;
}

export const actionsOf = async () => undefined;
export const talk = () => false;

export function cards(model, page) {
	const images = model.fields.inputs.filter(({ content }) => content === "image");
	const areScalars = model.fields.inputs.every(({ shape, content }) => !shape.length && ["value", "text"].includes(content));
	const live = [
		model.package.task === "voice-activity" && listening(page, (item) => command("answer", item, { outputs: ["next_memory"] })),
		images.length === 1 && navigator.mediaDevices && camera(images[0], page),
	].filter(Boolean);
	for (const stop of stops) stop();
	stops = live.map(({ stop }) => stop);
	return [
		...live.map(({ card }) => card),
		areScalars && table(model, page, (items) => command("answers", items, {}).then((answers) => ({ answers }), (error) => ({ error }))),
		promise(page),
	];
}

/** What was measured when the package was exported, and the examples again, here. */
function promise({ h }) {
	const { certificate } = bundle;
	const said = h("p", { id: "checked", role: "status" });
	const check = h("button", { type: "button", id: "check", onclick: async () => {
		check.disabled = true;
		try {
			const { examples: count, difference } = await command("check");
			said.textContent = `${count} golden examples answered as promised; numbers differ by ${difference.toExponential(1)} at most.`;
		} catch (error) {
			said.textContent = error.error;
		}
		check.disabled = false;
	} }, "Check the examples here");
	const { inputs, agreeing, equal, difference, runtime } = certificate;
	const compared = inputs
		? `At export, ${agreeing} of ${inputs} answers agreed with the package's own, ${equal} of them to the last bit; numbers differed by ${difference.toExponential(1)} at most (${runtime}).`
		: "Not compared with the package's own answers at export.";
	const here = runsOn === "webgpu" ? " Here the model runs on WebGPU, which was not compared: check the examples." : "";
	return h("section.card", 0, h("h2", 0, "The same answers"), h("p", 0, compared + here), h("div.row", 0, check), said);
}
