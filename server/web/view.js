// Draws a branch, and an answer while it comes. A token is a span; tokens without text of their
// own (halves of a character, the end) belong to the span after them. Spans are added once a frame,
// however fast tokens come.
import { $, h } from "./util.js";
import { closeBox, closeSoon, enterBox, openAt, openBox, placeBox }
    from "./alternatives.js";

const REST_MS = 120;
const log = $("log");
const drawn = new WeakMap(); // answer -> {body, next: first token not drawn, tail: text after}
let waiting = false;
let handlers = {}; // actions(branch, turn, n): buttons; alternative(branch, n): function or null
let view = { branch: null, chat: false };

export function setHandlers(h) {
    handlers = h;
}

// ---- tokens ----

function likelihood(logprob) {
    const p = Math.exp(logprob);
    return p >= 0.5 ? "" : p >= 0.2 ? " p1" : p >= 0.05 ? " p2" : p >= 0.01 ? " p3" : " p4";
}

function span(turn, from, to, ended) {
    const text = turn.tokens.slice(from, to).map((t) => t.text).join("");
    const least = Math.min(...turn.tokens.slice(from, to).map((t) => t.logprob));
    const e = h("span", { class: "t" + likelihood(least) + (ended ? " end" : "") });
    if (turn.tokens[to - 1].chosen) e.classList.add("chosen");
    e.textContent = turn.chat && from === 0 ? text.trimStart() : text;
    e.dataset.from = from;
    e.dataset.to = to;
    if (ended) {
        e.setAttribute("role", "img");
        e.setAttribute("aria-label", "end of the text");
    }
    return e;
}

function drawTokens(turn) {
    const state = drawn.get(turn);
    if (!state) return;
    const spans = [], done = Boolean(turn.reason);
    let from = state.next;
    for (let i = from; i < turn.tokens.length; i++) {
        if (turn.tokens[i].text === "") continue;
        spans.push(span(turn, from, i + 1, false));
        from = i + 1;
    }
    if (done && from < turn.tokens.length) {
        spans.push(span(turn, from, turn.tokens.length, true));
        from = turn.tokens.length;
    }
    state.next = from;
    state.body.append(...spans);
    if (turn.tail.length > state.tail) {
        state.body.append(turn.tail.slice(state.tail));
        state.tail = turn.tail.length;
    }
}

// ---- a branch ----

// An answer is drawn once, and taken along from then on.
function bodyOf(turn, n) {
    if (turn.role === "user") {
        const e = h("span", { class: "given", dir: view.chat ? "auto" : null });
        e.textContent = turn.text;
        return e;
    }
    if (drawn.has(turn)) return drawn.get(turn).body;
    const body = h("span", {
        class: "made", tabindex: 0, role: "group", "data-turn": n, dir: view.chat ? "auto" : null,
        "aria-label": "Answer. Arrow keys go from token to token.",
    });
    drawn.set(turn, { body, next: 0, tail: 0 });
    drawTokens(turn);
    return body;
}

function message(branch, turn, n) {
    const name = turn.role === "user" ? "You" : "Model";
    return h("article", { class: "message " + turn.role, "aria-label": name },
        h("h2", {}, name), h("div", { class: "words" }, bodyOf(turn, n)),
        h("div", { class: "actions" }, ...handlers.actions(branch, turn, n)));
}

function page(branch) {
    const last = branch.turns.length - 1;
    return [h("article", { class: "words", dir: "auto" },
        ...branch.turns.map((t, n) => bodyOf(t, n))),
    h("div", { class: "actions" }, ...handlers.actions(branch, branch.turns[last], last))];
}

export function drawBranch(branch, chat, empty) {
    const bottom = atBottom(), held = heldToken();
    view = { branch, chat };
    closeBox();
    log.classList.toggle("chat", chat);
    if (branch.turns.length === 0) log.replaceChildren(...empty);
    else if (chat) log.replaceChildren(...branch.turns.map((t, n) => message(branch, t, n)));
    else log.replaceChildren(...page(branch));
    if (bottom) toBottom();
    if (held) focusToken(log.querySelector(held));
}

// The token that has the focus, as a selector that finds it in what is drawn next.
function heldToken() {
    const e = document.activeElement.closest(".t"), at = e && turnOf(e);
    return at && `.made[data-turn="${at.n}"] > [data-from="${e.dataset.from}"]`;
}

// ---- while an answer comes ----

const atBottom = () => log.scrollHeight - log.scrollTop - log.clientHeight < 48;

export function toBottom() {
    log.scrollTop = log.scrollHeight;
}

function flush(turn) {
    const bottom = atBottom();
    drawTokens(turn);
    if (bottom) toBottom();
}

export function drawSoon(turn, then) {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
        waiting = false;
        flush(turn);
        then();
    });
}

// A page that is not in sight gets no frames: what is there must be drawn at the end.
export const drawNow = flush;

export function setRunning(turn, running) {
    const state = drawn.get(turn);
    if (state) state.body.classList.toggle("running", running);
    log.setAttribute("aria-busy", String(running));
}

// ---- alternatives: pointer and keyboard ----

function turnOf(element) {
    const body = element.closest(".made");
    return body && { body, n: Number(body.dataset.turn) };
}

function open(e) {
    const { n } = turnOf(e), turn = view.branch.turns[n];
    const from = Number(e.dataset.from), tokens = turn.tokens.slice(from, Number(e.dataset.to));
    openBox(e, tokens, from, handlers.alternative(view.branch, n));
}

function focusToken(e) {
    if (!e) return;
    e.tabIndex = -1; // not before: a reader should meet one text, not a thousand stops
    e.focus();
    open(e);
}

// Not under a pointer that only passes by.
let opening = 0;
log.addEventListener("pointerover", (ev) => {
    const e = ev.target.closest(".t");
    clearTimeout(opening);
    if (e) opening = setTimeout(() => e.isConnected && open(e), REST_MS);
    else if (openAt()) closeSoon();
});
log.addEventListener("pointerleave", () => {
    clearTimeout(opening);
    closeSoon();
});
log.addEventListener("click", (ev) => {
    const e = ev.target.closest(".t");
    if (e && getSelection().isCollapsed) open(e);
});
log.addEventListener("scroll", () => placeBox(log));

log.addEventListener("keydown", (ev) => {
    const at = ev.target.closest(".t"), place = turnOf(ev.target);
    if (!place || ev.ctrlKey || ev.metaKey || ev.altKey) return;
    const first = place.body.firstElementChild, last = place.body.lastElementChild;
    const moves = {
        ArrowRight: at ? at.nextElementSibling : first,
        ArrowLeft: at ? at.previousElementSibling : last,
        Home: first, End: last,
    };
    if (ev.key in moves) {
        focusToken(moves[ev.key]);
        ev.preventDefault();
    } else if (ev.key === "Enter" && at && enterBox()) {
        ev.preventDefault();
    } else if (ev.key === "Escape" && at && openAt()) {
        closeBox();
    }
});
log.addEventListener("focusout", (ev) => {
    const to = ev.relatedTarget;
    if (ev.target.closest(".t") && !(to && (to.closest(".t") || to.closest("#alternatives"))))
        closeSoon();
});
