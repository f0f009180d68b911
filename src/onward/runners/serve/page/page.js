// The page: a form from a model's fields, its answer as a person reads it, and the curl line that asks the same.

const DENSE_FROM = 9; // with this many numbers the form becomes a grid
const LIST_SHOWN = 12;
const $ = (id) => document.getElementById(id);

let current; // {model, path, controls, extras, example}
let pending; // AbortController of the request under way

// --- Building blocks ---

function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== ""));
  return element;
}

function number(value) {
  if (value === null) return "not a number";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return String(value);
  return size >= 1e-4 && size < 1e9 ? String(Number(value.toPrecision(5))) : value.toExponential(2);
}

const isShare = (value) => typeof value === "number" && value >= 0 && value <= 1;

function percent(value) {
  if (value > 0 && value < 0.001) return "< 0.1 %";
  if (value < 1 && value >= 0.9995) return "> 99.9 %";
  return `${(value * 100).toFixed(1)} %`;
}

function bar(from, to, less = false) {
  const element = h("div", { className: less ? "bar less" : "bar" });
  element.style.setProperty("--from", `${from * 100}%`);
  element.style.setProperty("--part", `${(to - from) * 100}%`);
  return element;
}

function bytes(size) {
  return size < 1e6 ? `${Math.max(1, Math.round(size / 1e3))} kB` : `${(size / 1e6).toFixed(1)} MB`;
}

// --- Fields: each control gives its value as JSON text (exactly what was typed), or "" to leave it out ---

const isMedia = (field) => field.content === "image" || field.content === "audio";
const isText = (field) => field.datatype === "BYTES";
const isNumber = (field) => !field.shape.length && !isText(field) && field.datatype !== "BOOL";
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i;

function numberText(text) {
  if (JSON_NUMBER.test(text)) return text;
  return NUMBER.test(text) ? String(Number(text)) : JSON.stringify(text); // the server says what is wrong with it
}

function listText(text, field) {
  text = text.trim();
  if (!text) return "";
  if (text.startsWith("[")) {
    try { return JSON.stringify(JSON.parse(text)) && text.replace(/\s*\n\s*/g, " "); } catch { return JSON.stringify(text); }
  }
  const cell = isText(field) ? JSON.stringify : numberText;
  const row = (line) => `[${line.split(isText(field) ? /\n/ : /[\s,;]+/).filter(Boolean).map(cell).join(", ")}]`;
  return field.shape.length > 1 ? `[${text.split("\n").map(row).join(", ")}]` : row(text);
}

function range(field) {
  const { minimum: low, maximum: high } = field;
  if (low !== undefined && high !== undefined) return `${number(low)} to ${number(high)}`;
  if (low !== undefined) return `from ${number(low)}`;
  return high !== undefined ? `up to ${number(high)}` : "";
}

function hint(field) {
  const size = field.shape.length ? `${field.shape.map((n) => (n < 0 ? "any" : n)).join(" × ")} values, as JSON or CSV` : "";
  const optional = !field.required && field.default === undefined ? "optional" : "";
  return [field.description, size, range(field), optional].filter(Boolean).join(" · ");
}

function control(field) {
  const id = `field-${field.name}`;
  const common = { id, name: field.name, "aria-describedby": `${id}-hint`, autocomplete: "off" };
  if (isMedia(field)) return media(field, common);
  let input, text;
  const choices = field.datatype === "BOOL" && !field.shape.length ? ["true", "false"] : field.categories;
  if (choices?.length && !field.shape.length) {
    const names = { true: "yes", false: "no" };
    const options = choices.map((value) => h("option", { value }, isText(field) ? value : names[value]));
    const empty = field.required && field.default === undefined ? "Choose…" : "—";
    input = h("select", common, h("option", { value: "" }, empty), options);
    text = () => (isText(field) && input.value ? JSON.stringify(input.value) : input.value);
  } else if (field.shape.length) {
    input = h("textarea", { ...common, className: "code", spellcheck: false });
    text = () => listText(input.value, field);
  } else if (isText(field)) {
    input = field.content === "text" ? h("textarea", common) : h("input", { ...common, type: "text" });
    text = () => (input.value ? JSON.stringify(input.value) : "");
  } else {
    const step = field.datatype.includes("INT") ? 1 : "any";
    input = h("input", { ...common, type: "number", step, min: field.minimum, max: field.maximum });
    text = () => (input.validity.badInput ? '"not a number"' : input.value && numberText(input.value));
  }
  const set = (value) => {
    const isList = typeof value === "object" && value !== null;
    input.value = isList ? JSON.stringify(value).replaceAll(",", ", ") : value ?? "";
  };
  set(field.default);
  return { field, input, text, set, node: frame(field, id, input) };
}

function frame(field, id, ...inside) {
  const units = field.units ? h("i", {}, field.units) : "";
  const label = h("label", { htmlFor: id, title: hint(field) }, field.name, units);
  const wide = isNumber(field) ? "" : " wide";
  return h("div", { className: `field${wide}` }, label, ...inside, h("span", { className: "hint", id: `${id}-hint` }, hint(field)));
}

function media(field, common) {
  const input = h("input", { ...common, type: "file", accept: `${field.content}/*` });
  const view = h("div", {});
  const drop = h("div", { className: "drop" }, view, input);
  const self = { field, input, file: null, text: () => "", node: frame(field, common.id, drop) };
  let url;
  self.set = (file) => {
    if (url) URL.revokeObjectURL(url);
    url = undefined;
    self.file = file;
    if (!file) {
      view.replaceChildren("Drop ", field.content === "image" ? "an image" : "a sound file", " here, or ", h("u", {}, "choose a file"));
      return;
    }
    url = URL.createObjectURL(file);
    const caption = h("small", {}, `${file.name} · ${bytes(file.size)}`);
    const parts = [caption];
    if (field.content === "image") {
      const image = h("img", { src: url, alt: `Preview of ${file.name}` });
      image.onload = () => caption.append(` · ${image.naturalWidth} × ${image.naturalHeight}`);
      image.onerror = () => image.remove();
      parts.unshift(image);
    }
    view.replaceChildren(...parts);
    self.save.href = url;
    self.save.download = file.name;
    self.save.hidden = !file.isExample;
  };
  self.save = h("a", { hidden: true, className: "hint" }, "Save this file for the curl line");
  drop.after(self.save);
  input.onchange = () => { if (input.files[0]) self.set(input.files[0]); showCurl(); };
  for (const type of ["dragenter", "dragover"]) drop.addEventListener(type, () => drop.classList.add("over"));
  for (const type of ["dragleave", "drop"]) drop.addEventListener(type, () => drop.classList.remove("over"));
  self.set(null);
  return self;
}

function fileOf(base64, name) {
  const data = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const heads = { ffd8: "image/jpeg", 8950: "image/png", 4749: "image/gif", 5249: data[8] === 87 && data[9] === 69 ? "image/webp" : "audio/wav" };
  const head = [...data.slice(0, 2)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const type = heads[head] ?? "application/octet-stream";
  const file = new File([data], `${name.replace(/[^\w.-]+/g, "-")}.${type.split("/")[1].replace("jpeg", "jpg")}`, { type });
  file.isExample = true;
  return file;
}

// --- The request, as fetch and as curl ---

function asked() {
  const names = current.extras.filter((box) => box.checked).map((box) => box.value);
  return location.origin + current.path + (names.length ? `?outputs=${names.map(encodeURIComponent).join(",")}` : "");
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** What to send: the file itself where a model takes just that, else JSON with any files as base64. */
function request() {
  const files = current.controls.filter((one) => one.file);
  const parts = current.controls.map((one) => [one.field.name, one.text()]).filter(([, text]) => text);
  if (files.length === 1 && !parts.length && current.model.fields.inputs.length === 1) {
    const { file, field } = files[0];
    const type = file.type.startsWith(field.content) ? file.type : `${field.content}/*`;
    return { type, body: () => file, curl: `--data-binary @${quoted(file.name)}` };
  }
  const pair = ([name, text]) => `${JSON.stringify(name)}: ${text}`;
  const json = `{${parts.map(pair).join(", ")}}`;
  if (!files.length) return { type: "application/json", body: () => json, curl: `-d ${quoted(json)}` };
  const encoded = async () => {
    const read = files.map(async (one) => [one.field.name, JSON.stringify(await base64Of(one.file))]);
    return `{${[...parts, ...(await Promise.all(read))].map(pair).join(", ")}}`;
  };
  const slots = files.map((one) => pair([one.field.name, '"%s"']));
  const format = quoted(`{${[...parts.map((part) => pair(part).replace(/[%\\]/g, "$&$&")), ...slots].join(", ")}}`);
  const reads = files.map((one) => `"$(base64 < ${quoted(one.file.name)} | tr -d '\\n')"`).join(" ");
  return { type: "application/json", body: encoded, curl: "--data-binary @-", before: `printf ${format} ${reads} | ` };
}

function base64Of(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

function showCurl() {
  const { type, curl, before = "" } = request();
  $("curl").textContent = `${before}curl -s ${quoted(asked())} -H 'content-type: ${type}' ${curl}`;
}

async function run() {
  pending?.abort();
  const own = (pending = new AbortController());
  const { type, body } = request();
  const url = asked();
  mark();
  $("answer").setAttribute("aria-busy", "true");
  try {
    const content = await body();
    const started = performance.now();
    const response = await fetch(url, { method: "POST", headers: { "content-type": type }, body: content, signal: own.signal });
    const text = await response.text();
    const tookMs = performance.now() - started;
    if (own !== pending) return;
    let value;
    try { value = JSON.parse(text); } catch { value = { error: text.slice(0, 300) || `HTTP ${response.status}` }; }
    if (response.ok) showAnswer(value, tookMs);
    else showError(value, response);
  } catch (error) {
    if (own.signal.aborted) return;
    showError({ error: error.name === "NotReadableError" ? "The file could not be read." : "The server could not be reached." });
  } finally {
    if (own === pending) $("answer").removeAttribute("aria-busy");
  }
}

// --- The answer ---

function showAnswer(body, tookMs) {
  const answer = { ...body.answer };
  const time = h("span", { className: "time", id: "latency", title: "Measured in this browser: request sent to answer read" }, `${tookMs < 100 ? tookMs.toFixed(1) : Math.round(tookMs)} ms`);
  const parts = [h("div", { className: "head" }, h("h2", {}, "Answer"), time)];
  if (answer.decision) parts.push(decision(answer.decision));
  delete answer.decision;
  for (const key of Object.keys(answer)) {
    if (!(key in answer) || !Array.isArray(answer[`${key}s`]) || typeof answer.score !== "number") continue;
    parts.push(big(answer[key], answer.score), ranking(answer[`${key}s`].map((one) => [one[key], one.score])));
    for (const used of [key, "score", `${key}s`]) delete answer[used];
  }
  const described = Object.fromEntries(current.model.fields.outputs.map((field) => [field.name, field]));
  const [first] = Object.keys(answer);
  if (parts.length === 1 && first && typeof answer[first] !== "object") {
    parts.push(big(first, answer[first], described[first]));
    delete answer[first];
  }
  parts.push(named(answer, described));
  const { version, digest } = current.model.package;
  const trace = pairs([
    ["Package", `${body.package} ${body.version}`],
    ["Digest", body.version === version ? h("code", { title: digest }, digest.slice(0, 16)) : ""],
    ["Request", h("code", {}, body.request_id)],
  ]);
  const raw = h("details", {}, h("summary", {}, "As JSON"), h("pre", { tabIndex: 0 }, JSON.stringify(body, null, 1)));
  $("answer").replaceChildren(...parts, h("div", { className: "trace" }, trace, raw));
}

function big(name, value, field) {
  const shown = field ? scalar(value, field) : isShare(value) ? percent(value) : number(value);
  const score = h("span", { className: "score", id: "score", title: String(value) }, shown);
  const box = h("div", { className: "big" }, h("span", { className: "label", id: "label" }, String(name)), score);
  if (field?.description) box.append(h("span", { className: "hint kind" }, field.description));
  return box;
}

function ranking(rows) {
  const most = rows.every(([, score]) => isShare(score)) ? 1 : Math.max(...rows.map(([, score]) => Math.abs(score)), 1e-9);
  const line = ([name, score]) => h("li", {}, h("span", {}, name), h("span", { title: score }, most === 1 ? percent(score) : number(score)), bar(0, Math.abs(score) / most, score < 0));
  return h("ul", { className: "bars" }, rows.map(line));
}

/** Signed parts of a whole, the largest first, left or right of the middle. */
function weights(values) {
  const rows = Object.entries(values).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const most = Math.abs(rows[0]?.[1] ?? 0) || 1;
  const signed = rows.some(([, value]) => value < 0);
  const line = ([name, value]) => {
    const size = Math.abs(value) / most / (signed ? 2 : 1);
    const drawn = !signed ? bar(0, size) : value < 0 ? bar(0.5 - size, 0.5, true) : bar(0.5, 0.5 + size);
    return h("li", {}, h("span", {}, name), h("span", { title: value }, number(value)), drawn);
  };
  const list = (some) => h("ul", { className: "bars" }, some.map(line));
  if (rows.length <= LIST_SHOWN) return list(rows);
  return h("div", {}, list(rows.slice(0, LIST_SHOWN - 2)), h("details", {}, h("summary", {}, `${rows.length - LIST_SHOWN + 2} more`), list(rows.slice(LIST_SHOWN - 2))));
}

function scalar(value, field) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string") return value;
  return [number(value), field?.units].filter(Boolean).join(" ");
}

function shown(value, field) {
  if (value === null || typeof value !== "object") return h("span", { title: String(value) }, scalar(value, field));
  if (value.media_type && value.base64) return blob(value, field);
  if (!Array.isArray(value)) {
    const isWeights = Object.values(value).every((part) => typeof part === "number");
    return isWeights ? weights(value) : pairs(Object.entries(value).map(([key, part]) => [key, shown(part)]));
  }
  const flat = value.flat(Infinity);
  const start = flat.slice(0, 6).map((part) => scalar(part)).join(", ");
  if (flat.length <= 6) return h("span", {}, [start, field?.units].filter(Boolean).join(" "));
  return h("details", {}, h("summary", {}, `${start}, … (${flat.length} values)`), h("pre", { tabIndex: 0 }, JSON.stringify(value)));
}

function blob({ media_type: type, base64 }, field) {
  const href = `data:${type};base64,${base64}`;
  if (type.startsWith("image/")) return h("img", { src: href, alt: field?.description ?? "An image" });
  return h("a", { href, download: `answer.${type.split("/")[1]}` }, "Save the file");
}

function decision({ outcome, rule, reasons, arguments: values }) {
  const rows = [["Rule", rule], ["Because", (reasons ?? []).join("; ")], ...Object.entries(values ?? {}).map(([key, value]) => [key, shown(value)])];
  return h("div", { className: "answer" }, h("div", { className: "big" }, h("span", { className: "label", id: "outcome" }, outcome)), pairs(rows));
}

function pairs(rows) {
  return h("dl", { className: "values" }, rows.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function named(values, described) {
  return pairs(Object.entries(values).map(([name, value]) => [h("span", { title: described[name]?.description ?? "" }, name), shown(value, described[name])]));
}

function showError({ error = "Something went wrong.", code, field, expected, found, request_id: id }, response) {
  let message = field && error.startsWith(`${field}: `) ? error.slice(field.length + 2) : error;
  for (const [word, part] of [["expected", expected], ["found", found]]) message = part ? message.replace(`; ${word} ${part}`, "") : message;
  message = message.charAt(0).toUpperCase() + message.slice(1);
  const after = response?.headers.get("retry-after");
  const rows = [["Field", field], ["Expected", expected], ["Found", found], ["Try again in", after && `${after} s`],
    ["Code", code && h("code", {}, code)], ["Request", id && h("code", {}, id)]];
  $("answer").replaceChildren(h("h2", {}, "No answer"), h("div", { className: "wrong", role: "alert" }, h("b", {}, message), pairs(rows)));
  mark(field);
}

/** Point at the field that an error is about, or at none. */
function mark(name) {
  for (const { field, input } of current.controls) {
    if (field.name !== name) input.removeAttribute("aria-invalid");
    else { input.setAttribute("aria-invalid", "true"); input.focus(); }
  }
}

// --- Filling in ---

function fill(values) {
  let filled = 0;
  for (const one of current.controls) {
    if (!(one.field.name in values)) continue;
    one.set(values[one.field.name]);
    filled += 1;
  }
  mark();
  showCurl();
  return filled;
}

async function example(button) {
  const own = current;
  if (!own.examples) {
    const versioned = own.path.includes("/versions/") ? `?version=${own.model.package.version}` : "";
    const response = await fetch(`/models/${own.model.name}/example${versioned}`).catch(() => null);
    own.examples = response?.ok ? (await response.json()).examples : [];
    own.next = 0;
  }
  if (own !== current) return;
  if (!own.examples.length) {
    button.disabled = true;
    button.textContent = "No example";
    return;
  }
  const { name, input } = own.examples[own.next++ % own.examples.length];
  const values = { ...input };
  for (const { field } of own.controls) {
    if (isMedia(field) && field.name in values) values[field.name] = fileOf(values[field.name], name);
  }
  for (const one of own.controls) one.set(isMedia(one.field) ? null : undefined);
  fill(values);
  button.title = name;
}

function pasting() {
  const area = h("textarea", { className: "code", "aria-label": "JSON with the fields' values", spellcheck: false, placeholder: '{"name": value, …}' });
  const said = h("span", { className: "hint", role: "status" });
  area.oninput = (event) => {
    event.stopPropagation();
    let values;
    try { values = JSON.parse(area.value); } catch { said.textContent = area.value.trim() ? "This is not JSON yet." : ""; return; }
    if (Array.isArray(values) && typeof values[0] !== "object") {
      values = Object.fromEntries(current.controls.map((one, index) => [one.field.name, values[index]]).slice(0, values.length));
    }
    said.textContent = `${fill([values].flat()[0] ?? {})} of ${current.controls.length} fields filled in.`;
  };
  return h("details", {}, h("summary", {}, "Paste JSON"), area, said);
}

// --- Models ---

function show(model, path) {
  pending?.abort();
  const { name, package: { version, digest, task, licence, description }, fields } = model;
  const controls = fields.inputs.map(control);
  const extras = fields.outputs.filter((field) => field.on_request)
    .map((field) => h("input", { type: "checkbox", value: field.name, title: field.description ?? "" }));
  current = { model, path, controls, extras };
  const dense = fields.inputs.filter(isNumber).length >= DENSE_FROM;
  const boxes = h("fieldset", { className: "choices" }, h("legend", {}, "Also answer with"),
    extras.map((box) => h("label", { title: box.title }, box, box.value)));
  const form = h("form", { className: dense ? "card dense" : "card", noValidate: true },
    h("h2", {}, "Input"),
    h("div", { className: "fields" }, controls.map((one) => one.node)),
    fields.inputs.length > 1 && !fields.inputs.some(isMedia) ? pasting() : "",
    extras.length ? boxes : "",
    h("div", { className: "row" }, h("button", { className: "main", type: "submit" }, "Run"),
      h("button", { type: "button", id: "example", onclick: (event) => example(event.currentTarget) }, "Example")));
  form.onsubmit = (event) => { event.preventDefault(); run(); };
  form.oninput = showCurl;
  form.onkeydown = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(); };
  const copy = h("button", { className: "small", type: "button", id: "copy" }, "Copy");
  copy.onclick = async () => {
    try { await navigator.clipboard.writeText($("curl").textContent); copy.textContent = "Copied"; } catch {
      getSelection().selectAllChildren($("curl")); // no clipboard without HTTPS: leave it selected
      copy.textContent = "Selected";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  };
  const curl = h("section", { className: "card curl" }, h("div", { className: "head" }, h("h2", {}, "The same with curl"), copy), h("pre", { tabIndex: 0 }, h("code", { id: "curl" })));
  const answer = h("section", { className: "card answer", id: "answer", "aria-live": "polite", "aria-label": "Answer" },
    h("h2", {}, "Answer"), h("p", { className: "muted" }, "Fill in the form, or take an example, and press Run."));
  const facts = [task, licence, h("code", { title: `Package digest: ${digest}` }, digest.slice(0, 16))];
  $("main").replaceChildren(
    h("h1", {}, name, h("small", { className: "muted" }, version)),
    h("p", { className: "about" }, description ?? ""),
    h("p", { className: "facts hint" }, facts.filter(Boolean).map((fact) => h("span", {}, fact))),
    h("div", { className: "board" }, form, h("div", { className: "side" }, answer, curl)));
  document.title = `${name} · Onward`;
  showCurl();
}

function list(models) {
  const entries = models.map((model) => {
    const { version } = model.package;
    const isNewest = model.versions.at(-1) === version;
    const path = `/models/${model.name}${isNewest ? "" : `/versions/${version}`}`;
    return { model, path, hash: `#${model.name}${isNewest ? "" : `@${version}`}` };
  });
  const links = entries.map(({ model, hash }) => h("a", { href: hash },
    h("b", {}, model.name), h("small", {}, `${model.package.version} · ${model.package.task}`)));
  $("models").replaceChildren(...links.map((link) => h("li", {}, link)));
  const choose = () => {
    const index = Math.max(0, entries.findIndex(({ hash }) => hash === location.hash));
    links.forEach((link, at) => (at === index ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
    show(entries[index].model, entries[index].path);
  };
  addEventListener("hashchange", choose);
  choose();
}

async function load() {
  try {
    const { models } = await (await fetch("/models")).json();
    if (models.length) return list(models);
    $("notice").textContent = "No model is served yet. This page looks again every two seconds.";
  } catch {
    $("notice").textContent = "The server could not be reached. This page tries again every two seconds.";
  }
  setTimeout(load, 2000);
}

function takeFile(event, files) {
  const target = current?.controls.find((one) => isMedia(one.field) && one.node.contains(event.target)) ?? current?.controls.find((one) => isMedia(one.field));
  if (!target || !files?.length) return;
  event.preventDefault();
  target.set(files[0]);
  showCurl();
}

addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => { event.preventDefault(); takeFile(event, event.dataTransfer.files); });
addEventListener("paste", (event) => takeFile(event, event.clipboardData.files));
load();
