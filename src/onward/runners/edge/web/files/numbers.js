// Numbers without loss: whole ones beyond what JavaScript's own hold exactly are BigInt, and JSON has their digits.

const WHOLE = /^-?\d+$/;

/** A number from its digits, exactly; NaN for what is none. */
export function numberOf(text) {
	const value = Number(text);
	return WHOLE.test(text) && !Number.isSafeInteger(value) ? BigInt(text) : value;
}

/** JSON read with all its digits, where the browser gives them to the reader. */
export const readJSON = (text) => JSON.parse(text, (_, value, told) => (typeof value === "number" && told?.source ? numberOf(told.source) : value));

/** JSON with all digits; where a browser cannot write them bare, as text. */
export const writeJSON = (value, indent) =>
	JSON.stringify(value, (_, one) => (typeof one === "bigint" ? (JSON.rawJSON?.(String(one)) ?? String(one)) : one), indent);
