// The voice loop: the microphone up, events and speech down. What is heard, replied and how long it took.

const STAGES = { vad_ms: "End of speech noticed", transcribe_ms: "Transcribed (meanwhile)", transcribe_wait_ms: "Waited for the transcript",
	understand_ms: "Understood and decided", synthesise_ms: "First words spoken", first_audio_ms: "From the end of speech to the first sound" };
const ENDS = { 1000: "Nothing was said for a while.", 1001: "The server is going away.", 1006: "The connection broke off.", 1013: "Too many people talk just now." };
let open; // {close} of the session that is on

/** Plays PCM as it comes, without gaps; `stop` drops what has not been heard. */
class Player {
	constructor(context) {
		this.context = context;
		this.sources = new Set();
		this.until = 0;
		this.rate = 22050;
	}

	play(bytes) {
		const pcm = new Int16Array(bytes);
		const buffer = this.context.createBuffer(1, pcm.length, this.rate);
		buffer.getChannelData(0).set(Float32Array.from(pcm, (sample) => sample / 32768));
		const source = new AudioBufferSourceNode(this.context, { buffer });
		source.connect(this.context.destination);
		this.until = Math.max(this.until, this.context.currentTime + 0.03);
		source.start(this.until);
		this.until += buffer.duration;
		this.sources.add(source);
		source.onended = () => this.sources.delete(source);
	}

	stop() {
		for (const source of this.sources) source.stop();
		this.sources.clear();
		this.until = 0;
	}
}

/** Show the voice assistant `model` in `main`. */
export function voice(main, model, { h, code, about }) {
	leaveVoice();
	let session; // {socket, context, stream, player}
	let heard; // the row of the utterance that is being spoken
	let said; // the row of the reply that is being written
	const log = h("ol.log", { role: "log", "aria-live": "polite", "aria-label": "Conversation" });
	const customer = h("input", { id: "voice-customer", autocomplete: "off", spellcheck: false, placeholder: "nobody" });
	const text = h("input", { id: "voice-text", autocomplete: "off", enterKeyHint: "send", maxLength: 2000, disabled: true });
	const talk = h("button.main", { type: "button", id: "microphone", onclick: () => (session ? end() : begin()) }, "Start talking");
	const stop = h("button", { type: "button", disabled: true, onclick: () => send({ type: "interrupt" }) }, "Stop the reply");
	const state = h("span.hint", { role: "status", id: "voice-state" }, "The microphone is off.");
	const level = h("meter", { min: 0, max: 1, value: 0, "aria-label": "Microphone" });
	const stages = h("dl.values", { id: "timings" });
	const typed = h("form.say", { noValidate: true }, h("label", { htmlFor: text.id }, "Or type"), text, h("button", 0, "Send"));

	const add = (who, words) => {
		const row = h(`li.${who}`, 0, h("b", 0, who === "you" ? "You" : model.name), h("p", 0, words));
		log.append(row);
		row.scrollIntoView({ block: "nearest" });
		return row;
	};
	const write = (row, words) => { row.querySelector("p").textContent = words; };
	const send = (event) => { if (session?.socket.readyState === WebSocket.OPEN) session.socket.send(JSON.stringify(event)); };
	const wrong = (words) => { add("bot", "").querySelector("p").replaceWith(h("p.wrong", { role: "alert" }, words)); };

	const on = {
		ready: () => { state.textContent = "Listening."; text.disabled = false; },
		speech_started: () => { heard = add("you", "…"); state.textContent = "Hearing you."; },
		partial: ({ text: words }) => { heard ??= add("you", ""); write(heard, words); heard.classList.add("partial"); },
		transcript: ({ text: words }) => {
			if (words) { heard ??= add("you", ""); write(heard, words); heard.classList.remove("partial"); } else heard?.remove();
			heard = undefined;
			state.textContent = words ? "Thinking." : "Listening.";
		},
		reply_delta: ({ text: words }) => { said ??= add("bot", ""); write(said, said.querySelector("p").textContent + words); },
		reply: ({ text: words, outcome, decision_id: id }) => {
			said ??= add("bot", "");
			write(said, words);
			said.append(h("div.hint.outcome", 0, outcome && h("span", 0, outcome), id && code(id)));
			said = undefined;
		},
		audio_start: ({ sample_rate_hz: rate }) => { session.player.rate = rate; state.textContent = "Speaking."; stop.disabled = false; },
		audio_end: () => { state.textContent = "Listening."; },
		interrupted: () => {
			session.player.stop();
			said = undefined;
			log.querySelector("li.bot:last-of-type")?.classList.add("interrupted");
			state.textContent = "Listening.";
		},
		timings: (told) => stages.replaceChildren(...Object.entries(STAGES).filter(([key]) => key in told)
			.flatMap(([key, words]) => [h("dt", 0, words), h("dd", 0, `${Math.round(told[key])} ms`)])),
		error: ({ error, code: word }) => { wrong(`${error} (${word})`); heard = said = undefined; },
		closing: () => {},
	};

	async function begin() {
		talk.disabled = true;
		state.textContent = "Asking for the microphone…";
		let stream;
		try {
			stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 } });
			const context = new AudioContext({ latencyHint: "interactive" });
			await context.audioWorklet.addModule("/page/microphone.js");
			const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/voice/${encodeURIComponent(model.name)}`);
			session = open = { socket, context, stream, player: new Player(context), close: () => end() };
			listen(session);
		} catch (error) {
			for (const track of stream?.getTracks() ?? []) track.stop();
			state.textContent = navigator.mediaDevices ? `There is no microphone: ${error.message}` : "Microphones need HTTPS, or this machine's own address.";
			talk.disabled = false;
		}
	}

	function listen(own) {
		const { socket, context, stream, player } = own;
		socket.binaryType = "arraybuffer";
		const node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0 });
		node.port.onmessage = ({ data }) => {
			level.value = data.level;
			if (socket.readyState === WebSocket.OPEN) socket.send(data.pcm);
		};
		socket.onopen = () => {
			socket.send(JSON.stringify({ type: "start", sample_rate_hz: 16000, ...(customer.value && { customer: customer.value }) }));
			context.createMediaStreamSource(stream).connect(node);
			talk.disabled = false;
			talk.textContent = "Stop talking";
			customer.disabled = true;
		};
		socket.onmessage = ({ data }) => {
			if (session !== own) return;
			if (typeof data !== "string") return player.play(data);
			const event = JSON.parse(data);
			on[event.type]?.(event);
		};
		socket.onclose = ({ code: number }) => { if (session === own) end(ENDS[number] ?? `The server ended it (${number}).`); };
	}

	function end(words = "The microphone is off.") {
		const { socket, context, stream, player } = session ?? {};
		session = open = heard = said = undefined;
		for (const track of stream?.getTracks() ?? []) track.stop();
		if (socket?.readyState === WebSocket.CLOSED) { // the server's doing: what it has said is heard to its end
			setTimeout(() => context.close(), Math.max(0, player.until - context.currentTime) * 1000);
		} else {
			socket?.close();
			player?.stop();
			context?.close();
		}
		level.value = 0;
		talk.disabled = customer.disabled = false;
		stop.disabled = text.disabled = true;
		talk.textContent = "Start talking";
		state.textContent = words;
	}

	typed.onsubmit = (event) => {
		event.preventDefault();
		if (!text.value.trim() || !session) return;
		add("you", text.value);
		send({ type: "text", text: text.value });
		text.value = "";
	};
	main.replaceChildren(...about, h("div.talk", 0,
		h("section.card", { "aria-label": "Voice" },
			h("div.head", 0, h("label", { htmlFor: customer.id }, "Signed in as"), customer),
			h("div.row", 0, talk, stop, level, state), log, typed),
		h("section.card", { "aria-label": "Timings" }, h("h2", 0, "How long it took"), stages)));
	document.title = `${model.name} · Onward`;
}

/** Another model is shown: the microphone goes off. */
export function leaveVoice() {
	open?.close();
	open = undefined;
}
