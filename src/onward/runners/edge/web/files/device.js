// The package in a worker, and the service worker that keeps it here: what the page asks instead of a server.

const INSTALL_MS = 20_000;
const CLAIM_MS = 3000;
const waiting = new Map();
let worker;
let last = 0;

/** Run a command of the worker; what it refuses is an object {error, code, …}. */
export function command(name, ...values) {
	const id = ++last;
	return new Promise((resolve, reject) => {
		waiting.set(id, { resolve, reject });
		worker.postMessage({ id, command: name, values });
	});
}

/** Open the package; `progress` is told how much of the model has been read. */
export async function start(progress) {
	await kept();
	const address = new URL("worker.js", import.meta.url);
	address.search = location.search;
	worker = new Worker(address, { type: "module" });
	worker.onerror = (event) => {
		const error = { code: "INTERNAL", error: `The model's thread does not run: ${event.message ?? "a file is missing"}` };
		for (const { reject } of waiting.values()) reject(error);
		waiting.clear();
	};
	worker.onmessage = ({ data }) => {
		if (data.progress) return progress(data.progress);
		const { resolve, reject } = waiting.get(data.id);
		waiting.delete(data.id);
		if (data.error) reject(data.error);
		else resolve(data.value);
	};
	return command("opened");
}

/** Have the rest of the folder kept as well: true once all of it is here, and the page works with no network. */
export async function keepAll() {
	const { controller } = navigator.serviceWorker ?? {};
	if (!controller) return false;
	const channel = new MessageChannel();
	return new Promise((resolve) => {
		channel.port1.onmessage = ({ data }) => resolve(data);
		controller.postMessage("keep", [channel.port2]);
	});
}

const later = (delayMs) => new Promise((resolve) => { setTimeout(resolve, delayMs); });
const controlled = (container) => new Promise((resolve) => { container.addEventListener("controllerchange", resolve, { once: true }); });

/** Until a service worker works, or is given up. */
const settled = (worker) => new Promise((resolve) => {
	const look = () => { if (!worker || ["activated", "redundant"].includes(worker.state)) resolve(); };
	worker?.addEventListener("statechange", look);
	look();
});

/** Have the service worker in charge before anything large is fetched, so that it is fetched once. */
async function kept() {
	const { serviceWorker } = navigator;
	if (!serviceWorker) return; // neither HTTPS nor this machine: the page works, but only with its host
	try {
		const registration = await serviceWorker.register(new URL("offline.js", import.meta.url));
		if (!registration.active) await Promise.race([settled(registration.installing ?? registration.waiting), later(INSTALL_MS)]);
		if (!registration.active) return; // it could not be installed: as with none
		if (!serviceWorker.controller) await Promise.race([controlled(serviceWorker), later(CLAIM_MS)]);
		// It adds the headers that threads need, from the next load on: once more, then, before there is anything to lose.
		if (!crossOriginIsolated && serviceWorker.controller && !sessionStorage.getItem("again")) {
			sessionStorage.setItem("again", "1");
			location.reload();
			await new Promise(() => {});
		}
	} catch {
		// A host or a setting that forbids it: as above.
	}
}
