// A picture from the camera, into the form's field.

/** A card with the camera's picture and a button that answers what it shows. */
export function camera(field, { h, fill, run }) {
	const video = h("video", { muted: true, playsInline: true, autoplay: true, hidden: true });
	const said = h("p.hint", { role: "status" });
	let stream;
	const look = h("button", { type: "button", id: "look", hidden: true, onclick: async () => {
		fill({ [field.name]: await picture(video) });
		run();
	} }, "What is it?");
	const start = h("button", { type: "button", id: "camera", onclick: async () => {
		if (stream) {
			for (const track of stream.getTracks()) track.stop();
			stream = undefined;
		} else {
			try {
				stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
				said.textContent = "";
			} catch (error) {
				said.textContent = `The camera cannot be used: ${error.message}`;
				return;
			}
			video.srcObject = stream;
			await video.play();
		}
		video.hidden = look.hidden = !stream;
		start.textContent = stream ? "Stop the camera" : "Use the camera";
	} }, "Use the camera");
	return h("section.card", 0, h("h2", 0, "Camera"), video, h("div.row", 0, look, start), said);
}

async function picture(video) {
	const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
	canvas.getContext("2d").drawImage(video, 0, 0);
	const blob = await canvas.convertToBlob({ type: "image/png" });
	return new File([blob], "camera.png", { type: "image/png" });
}
