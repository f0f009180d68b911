// Chat with a language model: its text as it is written, and a button that stops it.

let open; // the AbortController of the answer that is being written

/** The events of a response as they come: [name, data]. */
async function* events(response) {
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	let held = "";
	for (;;) {
		const { value, done } = await reader.read();
		if (done) return;
		held += value.replaceAll("\r", "");
		const blocks = held.split("\n\n");
		held = blocks.pop();
		for (const block of blocks) {
			const lines = block.split("\n").map((line) => line.split(/: ?(.*)/s));
			const data = lines.filter(([name]) => name === "data").map(([, text]) => text).join("\n");
			if (data) yield [lines.find(([name]) => name === "event")?.[1] ?? "message", JSON.parse(data)];
		}
	}
}

/** Show the chat with the language model `model` in `main`; `field` is its input that holds the messages. */
export function stream(main, model, path, field, { h, about }) {
	leaveStream();
	let messages = [];
	const log = h("ol.log", { role: "log", "aria-live": "polite", "aria-label": "Conversation" });
	const text = h("textarea", { id: "stream-text", rows: 2, maxLength: 8000 });
	const send = h("button.main", 0, "Send");
	const stop = h("button", { type: "button", disabled: true, onclick: () => open?.abort() }, "Stop");
	const again = h("button", { type: "button" }, "New conversation");
	const rate = h("span.hint", { role: "status" });
	const curl = h("code", { id: "curl" });
	const form = h("form.say", { noValidate: true }, h("label", { htmlFor: text.id }, "Message"), text, h("div.row", 0, send, stop));

	const add = (who, words) => {
		const paragraph = h("p", 0, words);
		log.append(h(`li.${who}`, 0, h("b", 0, who === "you" ? "You" : model.name), paragraph));
		paragraph.scrollIntoView({ block: "nearest" });
		return paragraph;
	};
	const body = () => JSON.stringify({ [field.name]: messages });
	const showCurl = () => {
		const shown = messages.length ? messages : [{ role: "user", content: text.value || "Hello" }];
		const quoted = `'${JSON.stringify({ [field.name]: shown }).replaceAll("'", `'\\''`)}'`;
		curl.textContent = `curl -sN '${location.origin}${path}' -H 'accept: text/event-stream' -H 'content-type: application/json' -d ${quoted}`;
	};
	const busy = (is) => { send.disabled = is; stop.disabled = !is; };

	async function say(words) {
		const asked = messages;
		asked.push({ role: "user", content: words });
		add("you", words);
		showCurl();
		text.value = "";
		const own = (open = new AbortController());
		const paragraph = add("bot", "");
		const began = performance.now();
		let written = "", pieces = 0, first = 0;
		busy(true);
		try {
			const headers = { "content-type": "application/json", accept: "text/event-stream" };
			const response = await fetch(path, { method: "POST", headers, body: body(), signal: own.signal });
			if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `The server answered ${response.status}.`);
			for await (const [name, data] of events(response)) {
				if (name === "error") throw new Error(data.error);
				if (name === "delta") {
					first ||= performance.now();
					pieces += 1;
					written += data.text;
				} else if (name === "end" && typeof data.answer?.text === "string") written = data.answer.text;
				paragraph.textContent = written;
				paragraph.scrollIntoView({ block: "nearest" });
			}
		} catch (error) {
			if (error.name === "AbortError") paragraph.classList.add("interrupted");
			else paragraph.replaceWith(h("p.wrong", { role: "alert" }, error instanceof TypeError ? "The server could not be reached." : error.message));
		} finally {
			if (written) asked.push({ role: "assistant", content: written });
			else asked.pop(); // what was not answered is not asked again with the next message
			if (first) {
				const seconds = (performance.now() - first) / 1000;
				rate.textContent = `first words after ${Math.round(first - began)} ms${pieces > 1 && seconds > 0 ? `, then ${((pieces - 1) / seconds).toFixed(0)} pieces/s` : ""}`;
			}
			if (open === own) open = undefined;
			busy(false);
			text.focus({ preventScroll: true });
		}
	}

	form.onsubmit = (event) => { event.preventDefault(); if (text.value.trim() && !send.disabled) say(text.value.trim()); };
	text.onkeydown = (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); } };
	text.oninput = showCurl;
	again.onclick = () => { open?.abort(); messages = []; log.replaceChildren(); rate.textContent = ""; showCurl(); text.focus(); };
	main.replaceChildren(...about, h("div.talk", 0,
		h("section.card", { "aria-label": "Chat" }, h("div.head", 0, rate, again), log, form),
		h("section.card.curl", 0, h("h2", 0, "The same with curl"), h("pre", { tabIndex: 0 }, curl))));
	document.title = `${model.name} · Onward`;
	showCurl();
}

/** Another model is shown: what is still being written is given up. */
export function leaveStream() {
	open?.abort();
	open = undefined;
}
