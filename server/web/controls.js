// The settings, as rows. Ranges, defaults and explanations are the server's own, from its
// /openapi.json; what stands here is how a setting is shown, and a range for sliders that people
// use.
import { $, h, recall, remember } from "./util.js";

const SAMPLING = [
    { name: "temperature", label: "Temperature", step: 0.05, slide: [0, 2], value: 1 },
    { name: "top_p", label: "Top p", step: 0.01, slide: [0, 1], value: 1 },
    { name: "min_p", label: "Min p", step: 0.01, slide: [0, 1], value: 0 },
    { name: "repetition_penalty", label: "Repetition penalty", step: 0.01, slide: [0.5, 2],
        value: 1 },
    { name: "top_k", label: "Top k", step: 1, value: 0 },
    { name: "max_tokens", label: "Max tokens", step: 1, value: 256, own: true },
    { name: "speculate", label: "Speculate", step: 1, empty: "server's" },
    { name: "seed", label: "Seed", seed: true, empty: "anew", hint: "Same seed, same text." },
    { name: "stop", label: "Stop strings", lines: true,
        hint: "One a line; \\n stands for a line break." },
    { name: "system", label: "System message", lines: true, chat: true,
        hint: "Goes before the conversation." },
];
const READING = [
    { name: "logprobs", label: "Alternatives", step: 1, value: 5, own: true,
        hint: "Of each token, on hover or with arrow keys." },
    { name: "tint", label: "Tint by probability", check: true, value: false,
        hint: "Tokens below 50%; the warmer, the less likely." },
];
const ROWS = [...SAMPLING, ...READING];
const MAX_STOPS = 16, MAX_STOP_BYTES = 256, MAX_SEED = 2n ** 64n - 1n;

const limits = { prompt: {}, chat: {} }; // properties of the two bodies
const values = {};
let changed = () => {};
let mode = "prompt";

function preset(row) {
    if (row.check) return Boolean(row.value);
    return row.value === undefined ? "" : String(row.value);
}

// The range of a row: the server's, for the mode that is on.
function range(row) {
    const field = (limits[mode] || {})[row.name] || (limits.prompt || {})[row.name] || {};
    const open = field.minimum > 0 && field.minimum < 1e-30;
    return { min: open ? 0 : field.minimum, max: field.maximum, open };
}

// ---- checks: "" or what is wrong, in words ----

function checkNumber(row, text) {
    if (text === "") return row.empty ? "" : row.label + " is missing.";
    const x = Number(text), { min, max, open } = range(row);
    if (!Number.isFinite(x)) return row.label + " must be a number.";
    if (row.step === 1 && !Number.isInteger(x)) return row.label + " must be a whole number.";
    const low = open ? x <= min : x < min;
    if (min === undefined || (!low && x <= max)) return "";
    return row.label + " must be " + (open ? "above " : "from ") + min + (open ? ", at most " :
        " to ") + max + ".";
}

function checkSeed(row, text) {
    if (text === "" || (/^(0|[1-9][0-9]{0,19})$/.test(text) && BigInt(text) <= MAX_SEED)) return "";
    return "Seed must be a whole number below 2^64.";
}

export function stopList(text) {
    return text.split("\n").filter((s) => s !== "")
        .map((s) => s.replace(/\\(n|t|\\)/g, (_, c) => ({ n: "\n", t: "\t", "\\": "\\" })[c]));
}

function checkStops(text) {
    const list = stopList(text);
    if (list.length > MAX_STOPS) return "At most " + MAX_STOPS + " stop strings.";
    const long = list.some((s) => new TextEncoder().encode(s).length > MAX_STOP_BYTES);
    return long ? "A stop string has at most " + MAX_STOP_BYTES + " bytes." : "";
}

function check(row) {
    const v = values[row.name];
    if (row.check || row.name === "system") return "";
    if (row.name === "stop") return checkStops(v);
    return row.seed ? checkSeed(row, v.trim()) : checkNumber(row, v.trim());
}

// ---- drawing ----

function mark(row) {
    const wrong = check(row), note = $("wrong-" + row.name), field = $("set-" + row.name);
    note.textContent = wrong;
    note.hidden = !wrong;
    field.setAttribute("aria-invalid", String(Boolean(wrong)));
    return wrong;
}

function set(row, value, from) {
    values[row.name] = value;
    const field = $("set-" + row.name), slider = $("slide-" + row.name);
    if (row.check) field.checked = value;
    else if (from !== field) field.value = value;
    if (slider && from !== slider) slider.value = value;
    mark(row);
    remember("settings", values);
    changed(row.name, value);
}

function field(row) {
    const id = "set-" + row.name;
    const described = "hint-" + row.name + " wrong-" + row.name;
    if (row.check)
        return h("input", { id, type: "checkbox", onchange: (e) => set(row, e.target.checked) });
    const props = {
        id, "aria-describedby": described, placeholder: row.empty, autocomplete: "off",
        oninput: (e) => set(row, e.target.value, e.target),
    };
    if (row.lines) return h("textarea", { ...props, rows: 2, spellcheck: "false" });
    if (row.seed) return h("input", { ...props, type: "text", inputmode: "numeric" });
    return h("input", { ...props, type: "number", step: row.step === 1 ? 1 : "any" });
}

function draw(row) {
    const id = "set-" + row.name, note = h("p", { id: "wrong-" + row.name, class: "wrong" });
    const hint = h("p", { id: "hint-" + row.name, class: "hint" }, row.hint || "");
    note.hidden = true;
    if (row.check)
        return h("div", { class: "control" }, h("label", { class: "check" }, field(row), row.label),
            hint, note);
    const slider = row.slide && h("input", {
        id: "slide-" + row.name, type: "range", min: row.slide[0], max: row.slide[1],
        step: row.step, tabindex: -1, "aria-label": row.label + ", slider",
        oninput: (e) => set(row, e.target.value, e.target),
    });
    return h("div", { class: "control" + (row.lines ? " tall" : ""), "data-chat": row.chat },
        h("label", { for: id }, row.label), field(row), slider, hint, note);
}

// The server's words; the dashes of an option stay with its name.
const sentence = (s) => s[0].toUpperCase() + s.slice(1).replace(/--/g, "\u2011\u2011") + ".";

function describe() {
    for (const row of ROWS) {
        const known = limits.prompt[row.name];
        if (known && !row.hint) $("hint-" + row.name).textContent = sentence(known.description);
        const box = $("set-" + row.name), { min, max } = range(row);
        if (box.type === "number" && min !== undefined) {
            box.min = min;
            box.max = max;
        }
        mark(row);
    }
    for (const e of document.querySelectorAll("[data-chat]")) e.hidden = mode !== "chat";
}

// ---- what others use ----

export function drawControls(onchange) {
    changed = onchange;
    const kept = recall("settings") || {};
    $("controls").append(...SAMPLING.map(draw));
    $("reading").append(...READING.map(draw));
    for (const row of ROWS) {
        const v = kept[row.name];
        set(row, typeof v === typeof preset(row) ? v : preset(row));
    }
    describe();
}

export function setLimits(prompt, chat) {
    limits.prompt = prompt;
    limits.chat = chat;
    describe();
}

export function setMode(to) {
    mode = to;
    describe();
}

export function resetControls() {
    for (const row of ROWS) set(row, preset(row));
}

export function setValue(name, value) {
    set(ROWS.find((r) => r.name === name), value);
}

export const getValue = (name) => values[name];

// The first setting that is wrong: {field, text}; or null.
export function firstWrong() {
    for (const row of ROWS) {
        const text = (row.chat && mode !== "chat") || mark(row) === "" ? "" : check(row);
        if (text) return { field: $("set-" + row.name), text };
    }
    return null;
}

// Short enough to be read out.
const randomSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);

// The settings as fields of a body. Those that have the server's default are left out; a seed is
// always sent, so that an answer can be had again.
export function chosen() {
    const body = { seed: values.seed.trim() || randomSeed() };
    for (const row of ROWS) {
        const v = values[row.name];
        if (row.check || row.seed || row.lines || row.name === "logprobs" || v.trim() === "")
            continue;
        const known = (limits[mode] || {})[row.name];
        if (row.own || !known || known.default !== Number(v)) body[row.name] = Number(v);
    }
    const stop = stopList(values.stop);
    if (stop.length) body.stop = stop;
    return body;
}
