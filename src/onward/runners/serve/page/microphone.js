// Runs on the audio thread: what the microphone gives, at whatever rate, becomes 16 kHz PCM of 16 bit, 20 ms a message.

const RATE = 16000;
const FRAME = 320;
const HALF = 16; // taps on either side, in samples of the slower rate

/** A windowed sinc: nothing above what 16 kHz can hold comes through to sound like something else. */
class Resampler {
	constructor(rate) {
		this.step = rate / RATE;
		this.scale = Math.max(1, this.step);
		this.half = Math.ceil(HALF * this.scale);
		this.held = new Float32Array(this.half * 2);
		this.at = this.half; // where in `held` the next sample lies
	}

	tap(distance) {
		const x = distance / this.scale;
		if (Math.abs(x) >= HALF) return 0;
		const sinc = x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
		return (sinc * (0.5 + 0.5 * Math.cos((Math.PI * x) / HALF))) / this.scale;
	}

	*take(samples) {
		const held = new Float32Array(this.held.length + samples.length);
		held.set(this.held);
		held.set(samples, this.held.length);
		for (; this.at + this.half < held.length; this.at += this.step) {
			const middle = Math.floor(this.at);
			let sum = 0;
			for (let i = Math.max(0, middle - this.half + 1); i <= middle + this.half && i < held.length; i++) {
				sum += held[i] * this.tap(i - this.at);
			}
			yield sum;
		}
		const done = Math.max(0, Math.floor(this.at) - this.half);
		this.held = held.slice(done);
		this.at -= done;
	}
}

class Microphone extends AudioWorkletProcessor {
	constructor() {
		super();
		this.resampler = new Resampler(sampleRate);
		this.frame = new Int16Array(FRAME);
		this.filled = 0;
		this.loudest = 0;
	}

	process([input]) {
		const channel = input[0];
		if (!channel) return true;
		for (const sample of this.resampler.take(channel)) {
			const value = Math.max(-1, Math.min(1, sample));
			this.loudest = Math.max(this.loudest, Math.abs(value));
			this.frame[this.filled++] = Math.round(value * 32767);
			if (this.filled === FRAME) {
				this.port.postMessage({ pcm: this.frame.buffer, level: this.loudest }, [this.frame.buffer]);
				this.frame = new Int16Array(FRAME);
				this.filled = 0;
				this.loudest = 0;
			}
		}
		return true;
	}
}

registerProcessor("microphone", Microphone);
