// The chat: for models that talk. What is said, what was decided, and each action as it happens.

const LOOK_MS = 400;
const LOOKS = 150; // a minute; an approval may take longer, and is then told by the shop
const UNDER_WAY = ["pending", "leased", "executing", "unknown", "waiting"];
const WORDS = { done: "done", waiting: "waits for approval", pending: "on its way", leased: "on its way",
	executing: "being done", unknown: "being looked into", dead: "failed", refused: "not approved", denied: "not allowed" };
const STARTS = ["Cancel my subscription", "How long can I pause?", "Refund my last order", "I want to talk to a person"];
let open; // the chat that is shown: what comes late for another one is dropped

/** Show the chat with `model` in `main`; `h` makes elements, `code` shows an id. */
export function chat(main, model, path, { h, code, about }) {
	const own = (open = {});
	let conversation = "";
	const log = h("ol.log", { role: "log", "aria-live": "polite", "aria-label": "Conversation" });
	const customer = h("input", { id: "chat-customer", autocomplete: "off", spellcheck: false, placeholder: "nobody" });
	const text = h("input", { id: "chat-text", autocomplete: "off", enterKeyHint: "send", maxLength: 2000 });
	const send = h("button.main", 0, "Send");
	const form = h("form.say", { noValidate: true }, h("label", { htmlFor: text.id }, "Message"), text, send);
	const starts = h("div.row.starts", 0, STARTS.map((start) => h("button", { type: "button", onclick: () => say(start) }, start)));
	const curl = h("code", { id: "curl" });

	const add = (who, ...inside) => {
		const row = h(`li.${who}`, 0, h("b", 0, who === "you" ? "You" : model.name), inside);
		log.append(row);
		row.scrollIntoView({ block: "nearest" });
		return row;
	};
	const body = (said) => JSON.stringify({ text: said, ...(customer.value && { customer: customer.value }), ...(conversation && { conversation }) });
	const showCurl = (said) => {
		const quoted = `'${body(said).replaceAll("'", `'\\''`)}'`;
		curl.textContent = `curl -s '${location.origin}${path}' -H 'content-type: application/json' -d ${quoted}`;
	};

	async function say(said) {
		if (!said.trim() || send.disabled) return;
		add("you", h("p", 0, said));
		showCurl(said);
		text.value = "";
		send.disabled = true;
		try {
			const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: body(said) });
			const answer = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
			if (open !== own) return;
			if (response.ok) answered(answer);
			else add("bot", h("p.wrong", { role: "alert" }, answer.error));
		} catch {
			if (open === own) add("bot", h("p.wrong", { role: "alert" }, "The server could not be reached."));
		} finally {
			send.disabled = false;
			if (open === own) text.focus({ preventScroll: true });
		}
	}

	function answered({ reply, conversation: id, decision, actions, article }) {
		conversation = id;
		const chips = new Map(actions.map((action) => [action.action_id, h("span.chip")]));
		const draw = (some) => {
			for (const { action_id: key, name, state } of some) {
				const chip = chips.get(key);
				if (chip) Object.assign(chip, { className: `chip ${state}`, textContent: `${name} · ${WORDS[state] ?? state}` });
			}
		};
		draw(actions);
		add("bot", h("p", 0, reply), h("div.hint.outcome", 0,
			h("span", { title: decision.reasons.join(", ") }, decision.outcome), [...chips.values()],
			article && h("span", { title: article.url }, `“${article.title}”`), code(decision.decision_id)));
		if (actions.some(({ state }) => UNDER_WAY.includes(state))) look(decision.decision_id, draw, LOOKS);
	}

	async function look(id, draw, left) {
		await new Promise((wake) => { setTimeout(wake, LOOK_MS); });
		if (open !== own || !left) return;
		const { actions } = await fetch(`/decisions/${id}`).then((response) => (response.ok ? response.json() : {})).catch(() => ({}));
		draw(actions ?? []);
		if (!actions || actions.some(({ state }) => UNDER_WAY.includes(state))) look(id, draw, left - 1);
	}

	const again = () => { conversation = ""; log.replaceChildren(); text.focus(); };
	form.onsubmit = (event) => { event.preventDefault(); say(text.value); };
	text.oninput = customer.onchange = () => showCurl(text.value);
	customer.addEventListener("change", again);
	main.replaceChildren(...about, h("div.talk", 0,
		h("section.card", { "aria-label": "Chat" },
			h("div.head", 0, h("label", { htmlFor: customer.id }, "Signed in as"), customer, h("button", { type: "button", onclick: again }, "New conversation")),
			log, starts, form),
		h("section.card.curl", 0, h("h2", 0, "The same with curl"), h("pre", { tabIndex: 0 }, curl))));
	document.title = `${model.name} · Onward`;
	showCurl("");
}

/** Another model is shown: what a chat is still waiting for is not drawn any more. */
export function leave() {
	open = undefined;
}
