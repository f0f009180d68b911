// Image file → pixels, by the browser's own decoders: the first frame, turned upright as EXIF says, transparency over
// white, as 8-bit RGB, with colours as they are in the file.

import { wrong } from "./errors.js";
import { shown } from "./fields.js";

const MAX_SIDE = 65_535;
const EXPECTED = "a whole file in one of JPEG, PNG, WEBP, GIF, BMP";

/**
 * The pixels of a Blob, of a file's bytes (ArrayBuffer or Uint8Array) or of {data, width, height} (RGB, 8 bits):
 * {data: Uint8Array, dims: [height, width, 3]}.
 */
export async function pixelsOf(value, { field, maxPixels }) {
	const check = ({ width, height }) => {
		if (width * height <= maxPixels && Math.max(width, height) <= MAX_SIDE) return;
		throw wrong("TOO_LARGE", field, `at most ${maxPixels} pixels and ${MAX_SIDE} a side`, `${width}x${height}`);
	};
	if (value?.data && value.width * value.height * 3 === value.data.length) {
		check(value);
		return { data: Uint8Array.from(value.data), dims: [value.height, value.width, 3] };
	}
	const isBytes = value instanceof ArrayBuffer || value instanceof Uint8Array;
	if (!isBytes && !(value instanceof Blob)) throw wrong("WRONG_DATATYPE", field, "the bytes of an image file", shown(value));
	const blob = isBytes ? new Blob([value]) : value;
	let bitmap;
	try {
		bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
	} catch {
		throw wrong("CORRUPT_MEDIA", field, EXPECTED, blob.size ? `${blob.size} bytes that are none` : "no bytes");
	}
	try {
		check(bitmap);
		return { data: rgb(bitmap), dims: [bitmap.height, bitmap.width, 3] };
	} finally {
		bitmap.close();
	}
}

function rgb(bitmap) {
	const { width, height } = bitmap;
	const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
	context.fillStyle = "#fff";
	context.fillRect(0, 0, width, height);
	context.drawImage(bitmap, 0, 0);
	const four = context.getImageData(0, 0, width, height).data;
	const three = new Uint8Array(width * height * 3);
	for (let from = 0, to = 0; from < four.length; from += 4) {
		three[to++] = four[from];
		three[to++] = four[from + 1];
		three[to++] = four[from + 2];
	}
	return three;
}
