// A picture from the camera, into the form's field.

/** A card with the camera's picture and a button that answers what it shows, and what stops it: {card, stop}. */
export function camera(field, { h, fill, run }) {
	const video = h("video", { muted: true, playsInline: true, autoplay: true, hidden: true });
	const said = h("p.hint", { role: "status" });
	let stream;
	const end = () => {
		for (const track of stream?.getTracks() ?? []) track.stop();
		stream = undefined;
	};
	const look = h("button", { type: "button", id: "look", hidden: true, onclick: async () => {
		fill({ [field.name]: await picture(video) });
		run();
	} }, "What is it?");
	const start = h("button", { type: "button", id: "camera", onclick: async () => {
		start.disabled = true; // asking for leave takes as long as a person does
		said.textContent = "";
		try {
			if (stream) end();
			else {
				stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
				if (!card.isConnected) end();
				video.srcObject = stream ?? null;
				if (stream) await video.play();
			}
		} catch (error) {
			end();
			said.textContent = `The camera cannot be used: ${error.message}`;
		}
		video.hidden = look.hidden = !stream;
		start.textContent = stream ? "Stop the camera" : "Use the camera";
		start.disabled = false;
	} }, "Use the camera");
	const card = h("section.card", 0, h("h2", 0, "Camera"), video, h("div.row", 0, look, start), said);
	return { card, stop: end };
}

async function picture(video) {
	const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
	canvas.getContext("2d").drawImage(video, 0, 0);
	const blob = await canvas.convertToBlob({ type: "image/png" });
	return new File([blob], "camera.png", { type: "image/png" });
}
