// Who answers this page: a server. Beside a package in a browser, another host.js stands here and answers by itself.

import { chat, leave } from "./chat.js";
import { leaveStream, stream } from "./stream.js";
import { leaveVoice, voice } from "./voice.js";

export const sameTitle = "The same with curl";
export const nothingYet = (known) => `${known ? "No model is served" : "The server is not reached"} yet; looking every two seconds.`;

/** The models that can be asked, undefined where the host is not reached. */
export async function models() {
	return (await fetch("/models").then((response) => response.json()).catch(() => ({}))).models;
}

export async function examples({ name, package: { version } }) {
	const response = await fetch(`/models/${name}/example?version=${version}`);
	return response.ok ? (await response.json()).examples : [];
}

/** Ask for an answer: {ok, value, after}, with `after` the seconds to wait before asking again. */
export async function ask(path, names, question, signal) {
	const { type, body } = request(question);
	const response = await fetch(target(path, names), { method: "POST", headers: { "content-type": type }, body: await body(), signal });
	const value = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
	return { ok: response.ok, value, after: response.headers.get("retry-after") };
}

/** The same request as a person would write it elsewhere. */
export function same(path, names, question) {
	const { type, curl, before = "" } = request(question);
	return `${before}curl -s ${quoted(target(path, names))} -H 'content-type: ${type}' ${curl}`;
}

/** What a decision's actions have come to; undefined where nobody says. */
export async function actionsOf(decision) {
	const response = await fetch(`/decisions/${decision}?wait_s=10`).catch(() => ({}));
	return response.ok ? response.json() : undefined;
}

/** Models that are talked with have a page of their own: whether this is one. */
export function talk(main, model, path, tools) {
	for (const one of [leave, leaveStream, leaveVoice]) one();
	const messages = model.fields.inputs.find(({ content }) => content === "chat");
	const talks = model.package.task === "voice-assistant" ? voice : messages ? stream : model.talks && chat;
	if (talks === stream) stream(main, model, path, messages, tools);
	else if (talks === voice) voice(main, model, tools);
	else if (talks) chat(main, model, path, tools);
	return Boolean(talks);
}

/** Cards that this host adds below the form. */
export const cards = () => [];

function target(path, names) {
	return location.origin + path + (names.length ? `?outputs=${names.map(encodeURIComponent)}` : "");
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** What to send: the file itself where a model takes just that, else JSON with any files in it as base64. */
function request({ parts, files, isFileAlone }) {
	const type = "application/json";
	const pair = ([name, text]) => `${JSON.stringify(name)}: ${text}`;
	const object = (pairs) => `{${pairs.map(pair).join(", ")}}`;
	const json = object(parts);
	if (!files.length) return { type, body: () => json, curl: `-d ${quoted(json)}` };
	if (isFileAlone) {
		const [{ content }, file] = files[0];
		const isKnown = file.type.startsWith(content);
		return { type: isKnown ? file.type : `${content}/*`, body: () => file, curl: `--data-binary @${quoted(file.name)}` };
	}
	const body = async () => object([...parts, ...await Promise.all(files.map(async ([{ name }, file]) => [name, `"${new Uint8Array(await file.arrayBuffer()).toBase64()}"`]))]);
	const slots = files.map(([{ name }]) => [name, '"%s"']);
	const format = object([...parts.map(([name, text]) => [name, text.replace(/[%\\]/g, "$&$&")]), ...slots]);
	const reads = files.map(([, file]) => `"$(base64 < ${quoted(file.name)} | tr -d '\\n')"`).join(" ");
	return { type, body, curl: "--data-binary @-", before: `printf ${quoted(format)} ${reads} | ` };
}
