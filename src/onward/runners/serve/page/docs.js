// The API as a page: what /openapi.json says, one card an operation.

const $ = (id) => document.getElementById(id);

function h(name, props, ...children) {
	const [tag, ...classes] = name.split(".");
	const node = Object.assign(document.createElement(tag), props);
	node.className = classes.join(" ");
	node.append(...children.flat(9).filter((child) => child));
	return node;
}

const more = (title, ...inside) => h("details", 0, h("summary", 0, title), inside);
const json = (value) => h("pre", { tabIndex: 0 }, JSON.stringify(value, null, 1));
const pairs = (rows) => h("dl.values", 0, rows.map(([name, value]) => [h("dt", 0, name), h("dd", 0, value)]));

/** A schema's type in a word or two. */
function kind({ type, items, enum: words, oneOf, $ref }) {
	if ($ref) return $ref.split("/").at(-1);
	if (oneOf) return oneOf.map(kind).join(" or ");
	if (words) return words.join(" | ");
	return type === "array" ? `list of ${kind(items ?? {})}` : type ?? "a file";
}

function bounds({ minimum, maximum, default: usual, minItems }) {
	const parts = [minimum !== undefined && `from ${minimum}`, maximum !== undefined && `to ${maximum}`];
	return [...parts, minItems && `${minItems} of them`, usual !== undefined && `default ${usual}`].filter(Boolean).join(" ");
}

function fields({ properties = {}, required = [] }) {
	return pairs(Object.entries(properties).map(([name, schema]) => {
		const facts = [kind(schema), bounds(schema), required.includes(name) && "required"].filter(Boolean).join(", ");
		return [name, [facts, schema.description && h("span.hint", 0, ` ${schema.description}`)]];
	}));
}

function body([type, { schema }]) {
	const item = schema?.oneOf?.find((one) => one.properties) ?? schema;
	return [h("h2", 0, `Body: ${type}${schema?.oneOf ? ", one item or a list of them" : ""}`),
		item?.properties ? fields(item) : h("p.hint", 0, schema ? kind(schema) : "the bytes")];
}

function operation(path, method, { summary, parameters = [], requestBody, responses }) {
	const id = `${method}${path}`;
	const name = h("span", 0, h("b", 0, method.toUpperCase()), " ", h("code", 0, path));
	$("operations").append(h("li", 0, h("a", { href: `#${id}` }, h("small", 0, `${method.toUpperCase()} ${path}`))));
	const given = parameters.map((one) => [one.name, [`${one.in}, ${kind(one.schema)}`, h("span.hint", 0, ` ${one.description ?? ""}`)]]);
	const told = Object.entries(responses).map(([status, { description }]) => [status, description]);
	const answer = responses[200]?.content?.["application/json"]?.schema;
	return h("section.card", { id }, name, h("p", 0, summary),
		given.length && [h("h2", 0, "Parameters"), pairs(given)],
		Object.entries(requestBody?.content ?? {}).map(body),
		h("h2", 0, "Answers"), pairs(told),
		answer && more("The answer's schema", json(answer)));
}

async function load() {
	const response = await fetch("/openapi.json").catch(() => ({}));
	if (!response.ok) {
		$("notice").textContent = "The server is not reached; reload to try again.";
		return;
	}
	const { paths, info, components } = await response.json();
	const cards = Object.entries(paths).flatMap(([path, methods]) =>
		Object.entries(methods).map(([method, one]) => operation(path, method, one)));
	const schemas = Object.entries(components.schemas).map(([name, schema]) => h("section.card", { id: name }, h("b", 0, name), fields(schema)));
	$("main").replaceChildren(h("h1", 0, "API", h("small", 0, info.version)), h("p.about", 0, info.description),
		h("div.fields", 0, cards, schemas));
	if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

load();
