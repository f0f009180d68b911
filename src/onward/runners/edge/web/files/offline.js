// The service worker: keeps every file of the bundle that it has seen, checked by its digest, and answers from there.
// It adds the headers without which browsers give a page no threads; no static host needs to know of them.

const DIGEST = ""; // of the bundle: another one is another service worker
const NAME = new URL("./", location).pathname;
const CACHE = `onward ${NAME} ${DIGEST}`;
const HEADERS = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
const here = (path) => new URL(path, location).href;
const passing = new Map(); // answers of the host that are to be kept, by path
let files; // of the bundle, by path

async function bundle() {
	files ??= (async () => {
		const cache = await caches.open(CACHE);
		let response = await cache.match(here("bundle.json"));
		if (!response) {
			response = await fetch(here("bundle.json"), { cache: "reload" });
			const told = await response.clone().json();
			if (told.digest !== DIGEST) throw new Error("the host has another bundle than this service worker is for");
			await cache.put(here("bundle.json"), response.clone());
		}
		return new Map((await response.json()).files.map((file) => [file.path, file]));
	})();
	files.catch(() => { files = undefined; });
	return files;
}

addEventListener("install", (event) => event.waitUntil((async () => {
	const own = await bundle();
	await Promise.all([...own.values()].filter(({ when }) => when === "page").map(({ path }) => kept(path)));
	// The first one works at once. A later one waits until no page of the old one is open: none may see files of both.
	if (!registration.active) await skipWaiting();
})()));

addEventListener("activate", (event) => event.waitUntil((async () => {
	const old = (await caches.keys()).filter((name) => name.startsWith(`onward ${NAME} `) && name !== CACHE);
	await Promise.all(old.map((name) => caches.delete(name)));
	await clients.claim();
})()));

addEventListener("fetch", (event) => {
	const { request } = event;
	const url = new URL(request.url);
	if (request.method !== "GET" || url.origin !== location.origin || !url.pathname.startsWith(NAME)) return;
	event.respondWith(answer(url.pathname.slice(NAME.length) || "index.html", request));
});

// The page wants to work without its host: everything that it may need is fetched now, and what it has fetched is kept.
addEventListener("message", (event) => event.waitUntil((async () => {
	const own = await bundle();
	const wanted = [...own.values()].filter(({ path, when }) => when !== "webgpu" || passing.has(path));
	await Promise.all(wanted.map(({ path }) => kept(path, passing.get(path)).catch(() => {})));
	passing.clear();
	const cache = await caches.open(CACHE);
	const found = await Promise.all(wanted.map(({ path }) => cache.match(here(path))));
	event.ports[0].postMessage(found.every(Boolean));
})()));

async function answer(path, request) {
	const own = await bundle().catch(() => new Map());
	const cache = await caches.open(CACHE);
	if (path === "bundle.json") return (await cache.match(here(path))) ?? fetch(request);
	if (path.endsWith(".wasm")) return passed(path, request).catch(() => kept(path)); // asked for by its digest
	if (path.endsWith(".onnx")) return (await cache.match(here(path))) ?? passed(path, request, { cache: "no-cache" }); // no older export's
	return own.has(path) ? kept(path) : fetch(request); // scripts need the headers where there are threads
}

/**
 * The host's own answer, to be kept later: the first answer need not wait for the cache, who reads a model checks it, and
 * of WASM that comes from a host browsers keep the compiled code, which they do not of WASM from this cache.
 */
async function passed(path, request, options) {
	const response = await fetch(request, options);
	if (!response.ok) throw new Error(`${path}: ${response.status}`);
	if (!(await (await caches.open(CACHE)).match(here(path)))) passing.set(path, response.clone());
	return response;
}

/** A file of the bundle from the cache or, where it is what bundle.json says, from the host into it. */
async function kept(path, passed) {
	const cache = await caches.open(CACHE);
	const found = await cache.match(here(path));
	if (found) return found;
	const { sha256, type } = (await bundle()).get(path);
	const response = passed ?? (await fetch(here(path), { cache: "reload" }));
	if (!response.ok) return response;
	const data = await response.arrayBuffer();
	const digest = Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", data)), (byte) => byte.toString(16).padStart(2, "0")).join("");
	if (digest !== sha256) {
		const error = `${path} is not what bundle.json says; expected SHA-256 ${sha256}; found ${digest}`;
		return Response.json({ code: "DIGEST_MISMATCH", error }, { status: 502 });
	}
	const whole = () => new Response(data, { headers: { ...HEADERS, "Content-Type": type, "Content-Length": data.byteLength } });
	await cache.put(here(path), whole()).catch(() => {}); // no room: it is answered all the same
	return whole();
}
