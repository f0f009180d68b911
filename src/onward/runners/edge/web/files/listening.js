// Is somebody speaking? The microphone, window by window, through a model that keeps its memory with the caller.

const CHUNK = 512; // new samples in a window, at 16 kHz
const CONTEXT = 64; // samples of the window before
const SPEAKING = 0.5;
const SILENT = 0.35; // below that, speech has ended
const OFF = "The microphone is off.";

/** A card with a button, and what stops it: {card, stop}; `answer(item)` gives {probability, next_memory}. */
export function listening({ h }, answer) {
	const said = h("p", { id: "speaking", role: "status" }, OFF);
	const level = h("div.level");
	const heard = h("p.hint", { id: "heard", role: "status" });
	let stop;
	const end = (why = OFF) => {
		stop?.();
		stop = undefined;
		said.textContent = why;
		said.classList.remove("speaking");
		button.textContent = "Listen";
	};
	const button = h("button", { type: "button", id: "listen", onclick: async () => {
		if (stop) return end();
		button.disabled = true; // asking for leave takes as long as a person does
		try {
			const told = show(said, level, heard);
			const ifOn = (...window) => { if (stop) told(...window); }; // the last answer comes when it is off already
			stop = await listen(detector(answer, ifOn, ({ error, message }) => end(`No window is answered: ${error ?? message}`)));
			button.textContent = "Stop listening";
			if (!card.isConnected) end();
		} catch (error) {
			end(`The microphone cannot be used: ${error.message}`);
		}
		button.disabled = false;
	} }, "Listen");
	const card = h("section.card", 0, h("h2", 0, "Microphone"), said, level, h("div.row", 0, button), heard);
	return { card, stop: end };
}

function show(said, level, heard) {
	let isSpeaking = false;
	let times = 0;
	return (probability, tookMs) => {
		level.style.setProperty("--part", `${probability * 100}%`);
		const was = isSpeaking;
		isSpeaking = probability >= (isSpeaking ? SILENT : SPEAKING);
		if (isSpeaking && !was) times++;
		said.textContent = isSpeaking ? "Somebody is speaking." : "Nobody is speaking.";
		said.classList.toggle("speaking", isSpeaking);
		heard.textContent = `Speech began ${times} time${times === 1 ? "" : "s"}; ${tookMs.toFixed(1)} ms for 32 ms of sound.`;
	};
}

/** Takes samples as they come; windows are answered one after another, and old ones dropped where that takes too long. */
function detector(answer, told, failed) {
	let waiting = [];
	let window = new Float32Array(CONTEXT + CHUNK);
	let memory = Array.from({ length: 2 }, () => new Array(128).fill(0));
	let isBusy = false;
	const next = async () => {
		if (isBusy || waiting.length < CHUNK) return;
		isBusy = true;
		try {
			while (waiting.length >= CHUNK) {
				const following = new Float32Array(CONTEXT + CHUNK);
				following.set(window.subarray(CHUNK));
				following.set(waiting.splice(0, CHUNK), CONTEXT);
				window = following;
				const started = performance.now();
				const { probability, next_memory: kept } = await answer({ window: Array.from(window), memory });
				memory = kept;
				told(probability, performance.now() - started);
			}
		} catch (error) {
			failed(error);
		} finally {
			isBusy = false;
		}
	};
	return (samples) => {
		waiting.push(...samples);
		if (waiting.length > 16 * CHUNK) waiting = waiting.slice(-CHUNK);
		next();
	};
}

/** The microphone's samples at 16 kHz, from -1 to 1; gives what stops it. */
async function listen(take) {
	const stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false } });
	const context = new AudioContext();
	const end = () => {
		for (const track of stream.getTracks()) track.stop();
		context.close();
	};
	try {
		await context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
		const node = new AudioWorkletNode(context, "microphone");
		node.port.onmessage = ({ data: { pcm } }) => take(Array.from(new Int16Array(pcm), (value) => value / 32768));
		context.createMediaStreamSource(stream).connect(node);
	} catch (error) {
		end();
		throw error;
	}
	return end;
}
