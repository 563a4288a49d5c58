// The box that shows what else a token could have been. It opens under the pointer or at the token
// that has the keyboard's focus, and stays open while the pointer is in it.
import { $, h, percent, shown } from "./util.js";

const box = $("alternatives");
let anchor = null; // the span it belongs to
let choose = null; // (index of token, alternative) => goes on with it; or null
let closing = 0;

export const openAt = () => anchor;

function bar(logprob) {
    const fill = h("span", { class: "fill" });
    fill.style.width = (100 * Math.exp(logprob)).toFixed(1) + "%";
    return h("span", { class: "meter", "aria-hidden": "true" }, fill);
}

function sameToken(a, token) {
    if (a.id !== undefined && token.id !== undefined) return a.id === token.id;
    return a.text === (token.piece === undefined ? token.text : token.piece);
}

function line(a, token, index) {
    const same = sameToken(a, token);
    const parts = [h("span", { class: "word" }, shown(a.text)), bar(a.logprob),
        h("span", { class: "share" }, percent(a.logprob))];
    if (!choose || same)
        return h("li", { class: same ? "same" : null, "aria-current": same ? "true" : null },
            ...parts);
    const name = shown(a.text) + ", " + percent(a.logprob) + ": go on with this one";
    return h("li", {}, h("button", {
        type: "button", "aria-label": name, onclick: () => choose(index, a),
    }, ...parts));
}

function table(token, index) {
    const list = token.alts.slice();
    if (!list.some((a) => sameToken(a, token)))
        list.push({ ...token, text: token.piece === undefined ? token.text : token.piece });
    return h("ol", {}, ...list.map((a) => line(a, token, index)));
}

// Where the text has scrolled away from under it, the box goes along, or closes.
export function placeBox(frame) {
    if (!anchor) return;
    const at = anchor.getBoundingClientRect(), view = frame.getBoundingClientRect();
    if (at.bottom < view.top || at.top > view.bottom) closeBox();
    else place(anchor);
}

function place(span) {
    const rects = span.getClientRects();
    const at = rects[0] || span.getBoundingClientRect();
    const margin = 8, size = box.getBoundingClientRect();
    const below = at.bottom + margin + size.height < innerHeight || at.top < size.height + margin;
    const left = Math.min(Math.max(margin, at.left - 12), innerWidth - size.width - margin);
    const top = below ? at.bottom + 4 : at.top - size.height - 4;
    box.style.left = Math.max(0, left) + "px";
    box.style.top = Math.max(0, Math.min(top, innerHeight - size.height)) + "px";
}

// tokens: the ones this span shows, the first being token `index` of its answer.
export function openBox(span, tokens, index, onchoose) {
    clearTimeout(closing);
    if (anchor === span) return;
    closeBox();
    anchor = span;
    choose = onchoose;
    box.replaceChildren(...tokens.slice(0, 4).map((t, i) => table(t, index + i)));
    if (onchoose) box.append(h("p", { class: "hint" }, "Choose one to go on with it."));
    box.hidden = false;
    span.classList.add("open");
    span.setAttribute("aria-describedby", "alternatives");
    place(span);
}

export function closeBox() {
    clearTimeout(closing);
    if (!anchor) return;
    anchor.classList.remove("open");
    anchor.removeAttribute("aria-describedby");
    anchor = null;
    box.hidden = true;
}

// The pointer left: close, unless it arrives in the box or at another token.
export function closeSoon() {
    clearTimeout(closing);
    closing = setTimeout(closeBox, 250);
}

export function enterBox() {
    const first = box.querySelector("button");
    if (first) first.focus();
    return Boolean(first);
}

box.addEventListener("pointerenter", () => clearTimeout(closing));
box.addEventListener("pointerleave", closeSoon);
box.addEventListener("keydown", (e) => {
    const buttons = [...box.querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (step) {
        buttons[(at + step + buttons.length) % buttons.length].focus();
        e.preventDefault();
    } else if (e.key === "Escape") {
        const back = anchor;
        e.stopPropagation();
        closeBox();
        back.focus();
    }
});
