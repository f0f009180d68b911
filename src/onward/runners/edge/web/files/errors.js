// The errors of a device: the codes are the server's, and so is the way they are told.

/** Something is wrong with an input, a package or a runtime: `code` is stable, `field` says where. */
export class OnwardError extends Error {
	constructor(code, message, { field = "", expected = "", found = "" } = {}) {
		const told = [field ? `${field}: ${message}` : message, expected && `expected ${expected}`, found && `found ${found}`];
		super(told.filter(Boolean).join("; "));
		Object.assign(this, { name: "OnwardError", code, field, expected, found });
	}
}

const MESSAGES = {
	INVALID_INPUT: "the input does not fit the package's signature",
	MISSING_INPUT: "an input that the package needs is missing",
	UNKNOWN_INPUT: "an input has a name that the package does not know",
	WRONG_DATATYPE: "an input has another datatype than the signature says",
	WRONG_SHAPE: "an input has another shape than the signature says",
	OUT_OF_RANGE: "a value lies outside the range that the signature allows",
	UNKNOWN_OUTPUT: "an output was requested that the package does not have",
	CORRUPT_MEDIA: "an image or audio clip could not be decoded",
	TOO_LARGE: "the input is larger than the package's limits allow",
};

/** The error about one field. */
export const wrong = (code, field, expected, found) => new OnwardError(code, MESSAGES[code], { field, expected, found });
