// The page: a form from a model's fields, its answer as a person reads it, and the curl line that asks the same.

import { actionsOf, ask, cards, examples, models, nothingYet, same, sameTitle, talk } from "./host.js";

const DENSE_FROM = 9; // with this many numbers the form becomes a grid
const SHOWN = 10;
const $ = (id) => document.getElementById(id);
let current; // {model, path, extras, examples, next}
let controls = []; // of the current model: {field, input, text, set, node}
let pending; // the AbortController of the request under way

function h(name, props, ...children) {
	const [tag, ...classes] = name.split(".");
	const node = document.createElement(tag);
	node.className = classes.join(" ");
	for (const [key, value] of Object.entries(props ?? {})) {
		if (value === undefined) continue;
		if (key in node) node[key] = value;
		else node.setAttribute(key, value);
	}
	node.append(...children.flat(9).filter((child) => child));
	return node;
}

const span = (text, title) => h("span", { title }, text);

function number(value) {
	if (value === null) return "not a number";
	if (Number.isInteger(value)) return String(value);
	return Math.abs(value) >= 1e-4 && Math.abs(value) < 1e9 ? String(+value.toPrecision(5)) : value.toExponential(2);
}

function percent(value) {
	if (value > 0 && value < 0.001) return "< 0.1 %";
	return value < 1 && value >= 0.9995 ? "> 99.9 %" : `${(value * 100).toFixed(1)} %`;
}

// --- Fields: a control gives its value as JSON text, digits as they were typed, or "" to leave it out ---

const isMedia = (field) => field.content === "image" || field.content === "audio";
const isNumber = (field) => !field.shape.length && !["BYTES", "BOOL"].includes(field.datatype);
const isJSON = (text) => { try { JSON.parse(text); return true; } catch { return false; } };
// What is no number goes as text: the server says what is wrong with it.
const numberText = (text) => (isJSON(text) ? text : JSON.stringify(isFinite(text) ? +text : text));

function listText(text, { shape, datatype }) {
	const source = text.trim();
	if (!source || isJSON(source)) return source;
	const [split, cell] = datatype === "BYTES" ? [/\n/, JSON.stringify] : [/[\s,;]+/, numberText];
	const row = (line) => `[${line.split(split).filter(Boolean).map(cell).join(", ")}]`;
	return shape.length > 1 ? `[${source.split("\n").map(row).join(", ")}]` : row(source);
}

function hint({ description, shape, minimum, maximum, required, default: usual }) {
	const size = shape.length && `${shape.map((n) => (n < 0 ? "any" : n)).join(" × ")} values, as JSON or CSV`;
	let range = minimum === undefined ? "" : `${number(minimum)} ${maximum === undefined ? "or more" : ""}`;
	if (maximum !== undefined) range += `${range ? "to" : "up to"} ${number(maximum)}`;
	return [description, size, range, !required && usual === undefined && "optional"].filter(Boolean).join(" · ");
}

function control(field) {
	const { name, datatype, shape, content, minimum: min, maximum: max } = field;
	const id = `field-${name}`;
	const common = { id, name, "aria-describedby": `${id}-hint`, autocomplete: "off", spellcheck: content === "text" };
	const isText = datatype === "BYTES";
	const choices = datatype === "BOOL" ? ["true", "false"] : field.categories;
	let input, shown, text = () => input.value && (isText ? JSON.stringify(input.value) : input.value);
	let set = (value) => { input.value = typeof value === "object" ? JSON.stringify(value).replaceAll(",", ", ") : value ?? ""; };
	if (isMedia(field)) {
		[input, shown, set] = media(field, common);
		text = () => "";
	} else if (shape.length) {
		input = h("textarea.code", common);
		text = () => listText(input.value, field);
	} else if (choices) {
		const empty = field.required && field.default === undefined ? "Choose…" : "—";
		const word = (value) => (isText ? value : value === "true" ? "yes" : "no");
		input = h("select", common, h("option", { value: "" }, empty), choices.map((value) => h("option", { value }, word(value))));
	} else if (isText) {
		input = content === "text" ? h("textarea", common) : h("input", common);
	} else {
		const step = datatype.includes("INT") ? 1 : "any";
		input = h("input", { ...common, type: "number", step, min, max });
		text = () => (input.validity.badInput ? '"not a number"' : input.value && numberText(input.value));
	}
	set(field.default);
	const label = h("label", { htmlFor: id, title: hint(field) }, name, field.units && h("i", 0, field.units));
	const node = h(isNumber(field) ? "div.field" : "div.field.wide", 0, label, shown ?? input,
		h("span.hint", { id: `${id}-hint` }, hint(field)));
	return { field, input, text, set, node };
}

/** A file input that covers its drop zone, so that the browser itself takes what is dropped there. */
function media({ content }, common) {
	const input = h("input", { ...common, type: "file", accept: `${content}/*` });
	const view = h("div");
	const save = h("a.hint", 0, "Save this file for the curl line");
	const drop = h("div.drop", 0, view, input);
	const draw = () => {
		URL.revokeObjectURL(save.href);
		const [file] = input.files;
		save.hidden = !file?.isExample;
		if (!file) return view.replaceChildren(`Drop ${content === "image" ? "an image" : "a sound file"} here, or `, h("u", 0, "choose a file"));
		save.href = URL.createObjectURL(file);
		save.download = file.name;
		const image = h("img", { src: save.href, alt: `Preview of ${file.name}`, onerror: () => image.remove() });
		view.replaceChildren(content === "image" ? image : "", h("small", 0, `${file.name} · ${Math.ceil(file.size / 1000)} kB`));
	};
	input.onchange = () => { draw(); mark(); showCurl(); };
	for (const type of ["dragover", "dragleave", "drop"]) {
		drop.addEventListener(type, () => drop.classList.toggle("over", type === "dragover"));
	}
	const set = (file) => {
		const transfer = new DataTransfer();
		if (file) transfer.items.add(file);
		input.files = transfer.files;
		draw();
	};
	return [input, h("div", 0, drop, save), set];
}

function fileOf(base64, name, content) {
	const heads = { "/9j": "jpeg", iVB: "png", R0l: "gif", Ukl: content === "image" ? "webp" : "wav" };
	const kind = heads[base64.slice(0, 3)] ?? "bin";
	const data = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
	const file = new File([data], `${name.replace(/[^\w.-]+/g, "-")}.${kind}`, { type: `${content}/${kind}` });
	return Object.assign(file, { isExample: true });
}

// --- The request ---

const extras = () => current.extras.filter((box) => box.checked).map((box) => box.value);

/** What the form says: values as JSON text, and files. */
function question() {
	const files = controls.filter((one) => one.input.files?.length).map(({ field, input }) => [field, input.files[0]]);
	const parts = controls.map((one) => [one.field.name, one.text()]).filter(([, text]) => text);
	return { parts, files, isFileAlone: files.length === 1 && controls.length === 1 };
}

function showCurl() {
	$("curl").textContent = same(current.path, extras(), question());
}

async function run() {
	pending?.abort();
	const own = (pending = new AbortController());
	mark();
	$("answer").setAttribute("aria-busy", "true");
	try {
		const started = performance.now();
		const { ok, value, after } = await ask(current.path, extras(), question(), own.signal);
		const tookMs = performance.now() - started;
		if (own.signal.aborted) return;
		if (ok) showAnswer(value, tookMs);
		else showError(value, after);
	} catch (error) {
		if (own.signal.aborted) return;
		showError({ error: "The file could not be read, or the server not be reached." });
	}
	$("answer").removeAttribute("aria-busy");
	$("answer").scrollIntoView({ block: "nearest" });
}

// --- The answer ---

function showAnswer(body, tookMs) {
	const { decision } = body;
	const rest = { ...body.answer };
	const parts = [];
	if (decision) {
		const { outcome, rule, reasons = [], arguments: values } = decision;
		parts.push(big(outcome), pairs([["Rule", rule], ["Because", reasons.join("; ")], ["No answer", body.failure], ...shownPairs(values ?? {})]), actions(decision));
	}
	const key = Object.keys(rest).find((name) => Array.isArray(rest[`${name}s`]) && typeof rest.score === "number");
	const fields = Object.fromEntries(current.model.fields.outputs.map((field) => [field.name, field]));
	if (key) {
		const rows = rest[`${key}s`].map((one) => [one[key], one.score]);
		const areShares = rows.every(([, score]) => score >= 0 && score <= 1);
		parts.push(big(rest[key], areShares ? percent(rest.score) : number(rest.score), rest.score), bars(rows, areShares));
		for (const used of [key, "score", `${key}s`]) delete rest[used];
	} else if (!decision) {
		const [first] = Object.keys(rest);
		if (typeof rest[first] !== "object") {
			parts.push(big(first, scalar(rest[first], fields[first]), rest[first], fields[first]?.description));
			delete rest[first];
		}
	}
	const took = `${tookMs < 100 ? tookMs.toFixed(1) : Math.round(tookMs)} ms`;
	const { version, digest } = current.model.package;
	$("answer").replaceChildren(
		h("div.head", 0, h("h2", 0, "Answer"),
			h("span", { id: "latency", title: "Round trip, as this browser saw it" }, took)),
		...parts, pairs(shownPairs(rest, fields)),
		h("div.trace", 0,
			pairs([["Package", `${body.package} ${body.version}`], ["Digest", body.version === version && code(digest)], ["Decision", decision && code(decision.decision_id)], ["Request", body.request_id && code(body.request_id)]]),
			more("As JSON", pre(JSON.stringify(body, null, 1)))));
}

/** What a decision does, and how far it is; looks again until it is settled. */
function actions({ decision_id: id, actions: taken }) {
	if (!taken.length) return "";
	const list = h("dl.values", { id: "actions" });
	const draw = (some) => list.replaceChildren(...some.flatMap(({ name, state, action_id: own }) =>
		[h("dt", 0, name), h("dd", { className: state, title: own }, state)]));
	const look = async () => {
		const told = await actionsOf(id);
		if (!list.isConnected || !told) return;
		draw(told.actions);
		if (!told.settled) setTimeout(look, 1000);
	};
	draw(taken);
	setTimeout(look);
	return list;
}

const pre = (text) => h("pre", { tabIndex: 0 }, text);
const more = (title, ...inside) => h("details", 0, h("summary", 0, title), inside);
const code = (text) => h("code", { title: text }, text.slice(0, 16));

function pairs(rows) {
	return h("dl.values", 0, rows.filter(([, value]) => value).map(([name, value]) => [h("dt", 0, name), h("dd", 0, value)]));
}

function shownPairs(values, fields = {}) {
	return Object.entries(values).map(([name, value]) => [span(name, fields[name]?.description), shown(value, fields[name])]);
}

function big(label, score = "", exact = "", description = "") {
	return h("div.big", 0, h("span", { id: "label" }, String(label)), h("span", { id: "score", title: String(exact) }, score),
		h("span.hint", 0, description));
}

/** Named numbers as bars; with negative ones among them, to the left and right of a middle. */
function bars(rows, areShares = false) {
	const most = areShares ? 1 : Math.max(...rows.map(([, value]) => Math.abs(value))) || 1;
	const middle = rows.some(([, value]) => value < 0) ? 50 : 0;
	const line = ([name, value]) => {
		const part = (Math.abs(value) / most) * (100 - middle);
		const bar = h(value < 0 ? "div.bar.less" : "div.bar");
		bar.style.setProperty("--from", `${value < 0 ? middle - part : middle}%`);
		bar.style.setProperty("--part", `${part}%`);
		return h("li", 0, span(name), span(areShares ? percent(value) : number(value), String(value)), bar);
	};
	const list = (some) => h("ul.bars", 0, some.map(line));
	const rest = rows.slice(SHOWN);
	return h("div", 0, list(rows.slice(0, SHOWN)), rest.length && more(`${rest.length} more`, list(rest)));
}

function scalar(value, field) {
	if (typeof value === "boolean") return value ? "yes" : "no";
	if (typeof value === "string") return value;
	return [number(value), field?.units].filter(Boolean).join(" ");
}

function shown(value, field) {
	if (value === null || typeof value !== "object") return span(scalar(value, field), String(value));
	if (value.base64) {
		const href = `data:${value.media_type};base64,${value.base64}`;
		const isImage = value.media_type.startsWith("image/");
		if (value.media_type.startsWith("audio/")) return h("audio", { src: href, controls: true });
		return isImage ? h("img", { src: href, alt: "Answer" }) : h("a", { href, download: "answer" }, "Save");
	}
	if (!Array.isArray(value)) {
		const rows = Object.entries(value).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
		return rows.every(([, part]) => typeof part === "number") ? bars(rows) : pairs(shownPairs(value));
	}
	if (value.length && value.every((part) => part?.title)) {
		return h("ol", 0, value.map(({ title, reason }) => h("li", 0, title, h("div.hint", 0, reason ?? ""))));
	}
	const flat = value.flat(9);
	const start = flat.slice(0, 6).map((part) => (Object(part) === part ? JSON.stringify(part) : scalar(part))).join(", ");
	return flat.length > 6 ? more(`${start}, … (${flat.length} values)`, pre(JSON.stringify(value))) : `${start} ${field?.units ?? ""}`;
}

function showError({ error, code: word, field, expected, found, request_id: id }, after) {
	// The message repeats what stands below it.
	let message = field ? error.replace(`${field}: `, "") : error;
	message = message.replace(`; expected ${expected}`, "").replace(`; found ${found}`, "");
	const rows = [["Field", field], ["Expected", expected], ["Found", found], ["Try again in", after && `${after} s`],
		["Code", word && h("code", 0, word)], ["Request", id && code(id)]];
	$("answer").replaceChildren(h("h2", 0, "No answer"),
		h("div.wrong", { role: "alert" }, h("b", 0, message.charAt(0).toUpperCase() + message.slice(1)), pairs(rows)));
	mark(field);
}

/** Point at the field that an error is about, or at none. */
function mark(name) {
	for (const { field, input } of controls) {
		input.setAttribute("aria-invalid", field.name === name);
		if (field.name === name) input.focus();
	}
}

// --- Filling in ---

function fill(values) {
	const known = controls.filter((one) => one.field.name in values);
	for (const one of known) one.set(values[one.field.name]);
	mark();
	showCurl();
	return known.length;
}

async function example({ currentTarget: button }) {
	const own = current;
	if (!own.examples) {
		own.examples = await examples(own.model);
		own.next = 0;
	}
	if (!own.examples.length) {
		button.disabled = true;
		button.textContent = "No example";
	} else if (own === current) {
		const example = own.examples[own.next++ % own.examples.length];
		const { name } = example;
		const input = { ...example.input };
		button.title = name;
		for (const one of controls) one.set();
		for (const { field } of controls.filter((one) => isMedia(one.field))) {
			if (typeof input[field.name] === "string") input[field.name] = fileOf(input[field.name], name, field.content);
		}
		fill(input);
	}
}

function pasting() {
	const area = h("textarea.code", { "aria-label": "The fields as JSON", placeholder: '{"name": value, …}' });
	const said = h("span.hint", { role: "status" });
	area.oninput = () => {
		const values = isJSON(area.value) ? JSON.parse(area.value) : 0;
		const isObject = values && typeof values === "object";
		said.textContent = isObject ? `${fill(values)} fields filled in` : "Not a JSON object yet";
	};
	return more("Paste JSON", area, said);
}

// --- Models ---

function show(model, path) {
	pending?.abort();
	const { name, package: { version, digest, task, licence, description }, fields } = model;
	const about = [h("h1", 0, name, h("small", 0, version)), h("p.about", 0, description),
		h("p.facts.hint", 0, [task, licence, code(digest)].map((fact) => fact && span(fact)))];
	document.title = `${name} · Onward`;
	if (talk($("main"), model, path, { h, code, about })) return;
	controls = fields.inputs.map(control);
	const extras = fields.outputs.filter((field) => field.on_request).map((field) => h("input", { type: "checkbox", value: field.name }));
	current = { model, path, extras };
	const button = (text, onclick) => h("button", { type: "button", id: text.toLowerCase(), onclick }, text);
	const form = h(fields.inputs.filter(isNumber).length < DENSE_FROM ? "form.card" : "form.card.dense", { noValidate: true },
		h("h2", 0, "Input"),
		h("div.fields", 0, controls.map((one) => one.node)),
		controls.length > 1 && !fields.inputs.some(isMedia) && pasting(),
		extras.length && h("fieldset", 0, h("legend", 0, "Also answer with"), extras.map((box) => h("label", 0, box, box.value))),
		h("div.row", 0, h("button.main", 0, "Run"), button("Example", example)));
	form.onsubmit = (event) => { event.preventDefault(); run(); };
	form.oninput = showCurl;
	form.onkeydown = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(); };
	const copy = button("Copy", async () => {
		getSelection().selectAllChildren($("curl")); // there is no clipboard without HTTPS: then it stays selected
		await navigator.clipboard?.writeText($("curl").textContent).then(() => { copy.textContent = "Copied"; }, () => {});
		setTimeout(() => { copy.textContent = "Copy"; }, 1500);
	});
	$("main").replaceChildren(...about,
		h("div.board", 0, form,
			h("section.card", { id: "answer", "aria-live": "polite", "aria-label": "Answer" },
				h("h2", 0, "Answer"), h("p.hint", 0, "Fill in the form, or take an example, and press Run.")),
			h("section.card.curl", 0, h("div.head", 0, h("h2", 0, sameTitle), copy),
				h("pre", { tabIndex: 0 }, h("code", { id: "curl" }))),
			cards(model, { h, fill, run, controls })));
	showCurl();
}

function list(known) {
	const entries = known.map((model) => {
		const { versions, name, package: { version, task } } = model;
		const isNewest = versions.at(-1) === version;
		const link = h("a", { href: `#${name}${isNewest ? "" : `@${version}`}` }, h("b", 0, name), h("small", 0, `${version} · ${task}`));
		return { model, link, path: `/models/${name}${isNewest ? "" : `/versions/${version}`}` };
	});
	$("models").replaceChildren(...entries.map(({ link }) => h("li", 0, link)));
	onhashchange = () => {
		const chosen = entries.find(({ link }) => link.hash === location.hash) ?? entries[0];
		for (const { link } of entries) link.ariaCurrent = link === chosen.link ? "page" : null;
		show(chosen.model, chosen.path);
	};
	onhashchange();
}

async function load() {
	const known = await models();
	if (known?.length) return list(known);
	$("notice").textContent = nothingYet(known);
	setTimeout(load, 2000);
}

ondragover = ondrop = (event) => { if (event.target.type !== "file") event.preventDefault(); };
load();
