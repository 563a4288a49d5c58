// Small things that every part of the page uses. Text reaches the document through textContent and
// attributes only, never as markup.

export const $ = (id) => document.getElementById(id);

// h("p", {class: "x", onclick: f}, child, "text"): an element. A value of null leaves out its name.
export function h(tag, props = {}, ...children) {
    const e = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
        else if (name === "value" || name === "checked") e[name] = value;
        else e.setAttribute(name, value === true ? "" : value);
    }
    e.append(...children.filter((c) => c !== null && c !== undefined));
    return e;
}

export function seconds(ms) {
    if (ms < 1000) return Math.round(ms) + " ms";
    return (ms / 1000).toFixed(ms < 10000 ? 1 : 0) + " s";
}

export function rate(x) {
    return x < 10 ? x.toFixed(1) : String(Math.round(x));
}

export function percent(logprob) {
    const p = 100 * Math.exp(logprob);
    if (p >= 99.95) return "100%";
    if (p >= 10) return p.toFixed(1) + "%";
    if (p >= 0.1) return p.toFixed(2) + "%";
    return p < 0.001 ? "<0.001%" : p.toFixed(3) + "%";
}

export function count(n, one, many) {
    return n.toLocaleString("en") + " " + (n === 1 ? one : many || one + "s");
}

export function shortNumber(n) {
    for (const [unit, word] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]])
        if (n >= unit) return (n / unit).toPrecision(3).replace(/\.?0+$/, "") + word;
    return String(n);
}

// What cannot be seen in a token, made visible.
export function shown(text) {
    if (text === "") return "∅";
    const visible = text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍")
        .replace(/^ +| +$/g, (s) => "␣".repeat(s.length));
    return [...visible].map((c) => (/\p{Cc}|\p{Cf}/u.test(c) ? "\\u" + hex(c) : c)).join("");
}

const hex = (c) => c.codePointAt(0).toString(16).padStart(4, "0");

// Memory of the browser, and of this tab alone; where it is allowed, and while there is room.
function get(storage, name) {
    try {
        return JSON.parse(window[storage].getItem("tnl." + name));
    } catch (e) {
        return null;
    }
}

function put(storage, name, value) {
    try {
        window[storage].setItem("tnl." + name, JSON.stringify(value));
    } catch (e) {
        // forgotten with the page
    }
}

export const recall = (name) => get("localStorage", name);
export const remember = (name, value) => put("localStorage", name, value);
export const stored = (name) => get("sessionStorage", name);
export const store = (name, value) => put("sessionStorage", name, value);
