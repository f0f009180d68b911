// A CSV file, scored row by row: answers as another CSV file, and what cannot be answered with its reason.

import { numberOf, writeJSON } from "./numbers.js";

const TOGETHER = 1024;
const SHOWN = 20;

/** A card that takes a file; `answer(items)` gives {answers} or {error}, and refuses all for one bad item. */
export function table({ name: model, fields: { inputs } }, { h }, answer) {
	const said = h("p.hint", { role: "status", id: "scored" });
	const bar = h("progress", { hidden: true, max: 1 });
	const shown = h("div.scroll");
	const save = h("a", { hidden: true, id: "save" }, "Save the answers");
	const input = h("input", { type: "file", accept: ".csv,text/csv", id: "csv", "aria-label": "A CSV file with a column for each input" });
	input.onchange = async () => {
		const [file] = input.files;
		if (!file) return;
		bar.hidden = false;
		const started = performance.now();
		try {
			const { lines, refused } = await scored(parse(await file.text()), inputs, answer, (share) => { bar.value = share; });
			const took = (performance.now() - started) / 1000;
			said.textContent = `${lines.length - 1} rows in ${took.toFixed(2)} s, ${refused} of them refused.`;
			URL.revokeObjectURL(save.href);
			save.href = URL.createObjectURL(new Blob([lines.map(written).join("")], { type: "text/csv" }));
			save.download = `${model}-answers.csv`;
			save.hidden = false;
			const row = (cells, tag) => h("tr", 0, cells.map((cell) => h(tag, 0, String(cell))));
			shown.replaceChildren(h("table", 0, row(lines[0], "th"), lines.slice(1, SHOWN + 1).map((cells) => row(cells, "td"))));
		} catch (error) {
			said.textContent = error.message;
		}
		bar.hidden = true;
		input.value = "";
	};
	return h("section.card", 0, h("h2", 0, "Many rows"), h("p.hint", 0, "A CSV file with a header that names the inputs."), input, bar, said, shown, save);
}

async function scored([header, ...rows], inputs, answer, progress) {
	if (!header) throw new Error("The file is empty; a header that names the inputs is expected.");
	const fields = header.map((name) => inputs.find((field) => field.name === name));
	if (!fields.some(Boolean)) throw new Error(`No column of the file is an input; expected some of ${inputs.map(({ name }) => name).join(", ")}.`);
	const items = rows.map((cells) => Object.fromEntries(fields.flatMap((field, column) => (field ? valueOf(field, cells[column]) : []))));
	const answers = [];
	for (let start = 0; start < items.length; start += TOGETHER) {
		answers.push(...(await some(items.slice(start, start + TOGETHER), answer)));
		progress(answers.length / items.length);
	}
	const columns = [...new Set(answers.flatMap((one) => Object.keys(one)))];
	const cell = (value) => (value === undefined ? "" : typeof value === "object" ? writeJSON(value) : value);
	return {
		lines: [["row", ...columns], ...answers.map((one, row) => [row, ...columns.map((name) => cell(one[name]))])],
		refused: answers.filter((one) => "error" in one).length,
	};
}

/** Answers, and an error in the place of each item that has none: halves tell which those are. */
async function some(items, answer) {
	const { answers, error } = await answer(items);
	if (answers) return answers;
	if (items.length === 1) return [{ error: error.code ?? "INTERNAL", message: error.error }];
	const middle = items.length >> 1;
	return [...(await some(items.slice(0, middle), answer)), ...(await some(items.slice(middle), answer))];
}

/** [[name, value]], or nothing for an empty cell. */
function valueOf({ name, datatype }, cell = "") {
	if (datatype === "BYTES") return cell === "" ? [] : [[name, cell]];
	const text = cell.trim();
	if (!text) return [];
	if (datatype === "BOOL") return [[name, { true: true, false: false, 1: true, 0: false }[text.toLowerCase()] ?? text]];
	const value = numberOf(text);
	return [[name, Number.isNaN(value) ? text : value]];
}

/** The rows of a CSV file (RFC 4180): quoted cells may hold commas, quotes and line breaks. */
export function parse(text) {
	const rows = [];
	let row = [];
	const cells = /(?:"((?:[^"]|"")*)"|([^",\r\n][^,\r\n]*|))(,|\r\n|\n|\r|$)/gy;
	cells.lastIndex = text.startsWith("\uFEFF") ? 1 : 0;
	while (cells.lastIndex < text.length) {
		const found = cells.exec(text);
		if (!found) throw new Error(`Row ${rows.length + 1} of the file is no CSV: a quote does not end where a cell does.`);
		row.push(found[1]?.replaceAll('""', '"') ?? found[2]);
		if (found[3] === ",") {
			if (cells.lastIndex === text.length) row.push("");
			else continue;
		}
		if (row.length > 1 || row[0] !== "") rows.push(row);
		row = [];
	}
	return rows;
}

const written = (cells) => `${cells.map((cell) => (/[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell)).join(",")}\r\n`;
