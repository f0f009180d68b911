// The model in a thread of its own, so that the page stays alive while it computes.

import { open } from "./onward.js";

const model = open({ ...Object.fromEntries(new URL(location).searchParams), progress: (progress) => postMessage({ progress }) });
const commands = {
	opened: async () => {
		const { bundle, runtime } = await model;
		return { bundle, runtime };
	},
	answer: async (item, options) => (await model).answer(item, options),
	answers: async (items, options) => (await model).answers(items, options),
	check: async () => (await model).check(),
	examples: async () => (await model).examples(),
};

onmessage = async ({ data: { id, command, values } }) => {
	try {
		postMessage({ id, value: await commands[command](...values) });
	} catch (error) {
		const { code = "INTERNAL", field, expected, found, message } = error;
		postMessage({ id, error: { error: message, code, field, expected, found } });
	}
};
