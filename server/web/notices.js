// What the page has to say besides text: loading, the key form, problems; and what it tells people
// who listen to it. Long answers are spoken in pieces, at most one every few seconds.
import { $, h } from "./util.js";
import { setApiKey, words } from "./api.js";

const SAY_EVERY_MS = 4000;
const SAY_AT_MOST = 600; // characters

function replace(id, element) {
    const old = $(id);
    if (old) old.remove();
    if (element) {
        element.id = id;
        $("notices").append(element);
    }
}

export function showLoading(progress) {
    if (progress === null) {
        replace("loading", null);
        return;
    }
    if (!$("loading"))
        replace("loading", h("div", { class: "notice" }, h("label", { for: "progress" },
            "The model is loading."), h("progress", { id: "progress", max: 1 })));
    $("progress").value = progress;
}

export function showUnreachable(on) {
    if (Boolean($("unreachable")) === on) return;
    replace("unreachable", on && h("p", { class: "notice", role: "alert" },
        "The server cannot be reached. This page tries again by itself."));
}

export function showProblem(problem, again) {
    const [title, text] = words(problem);
    replace("problem", h("div", { class: "notice problem", role: "alert" },
        h("p", {}, h("strong", {}, title), " " + text),
        h("div", { class: "tools" },
            again && h("button", { type: "button", onclick: again }, "Try again"),
            h("button", { type: "button", onclick: hideProblem }, "Dismiss"))));
}

export function showText(title, text) {
    replace("problem", h("div", { class: "notice problem", role: "alert" },
        h("p", {}, h("strong", {}, title), " " + text),
        h("div", { class: "tools" },
            h("button", { type: "button", onclick: hideProblem }, "Dismiss"))));
}

export function showUndo(text, undo) {
    const go = () => {
        hideProblem();
        undo();
    };
    replace("problem", h("div", { class: "notice", role: "status" }, h("p", {}, text),
        h("div", { class: "tools" }, h("button", { type: "button", onclick: go }, "Undo"),
            h("button", { type: "button", onclick: hideProblem }, "Dismiss"))));
}

export function hideProblem() {
    replace("problem", null);
}

// refused: a key was sent and not accepted. then: called with the key stored.
export function showKeyForm(refused, then) {
    const field = h("input", {
        id: "api-key", type: "password", autocomplete: "off", spellcheck: "false", required: true,
        "aria-describedby": "api-key-hint", pattern: "[!-~]+",
    });
    const form = h("form", { class: "notice", onsubmit: (e) => {
        e.preventDefault();
        setApiKey(field.value.trim());
        replace("key-form", null);
        then();
    } }, h("label", { for: "api-key" }, refused ? "This key was not accepted. API key" :
        "This server asks for an API key"), field,
    h("button", { type: "submit", class: "main" }, "Use this key"),
    h("p", { class: "hint", id: "api-key-hint" },
        "Kept in this tab only, and forgotten when it is closed."));
    replace("key-form", form);
    field.focus();
}

export const hideKeyForm = () => replace("key-form", null);

// ---- for screen readers ----

let spoken = 0, spokenAt = 0;

export function say(text) {
    $("said").textContent = text;
}

export function sayBegin() {
    spoken = 0;
    spokenAt = performance.now();
    say("The answer begins.");
}

// The part of an answer that has not been spoken, up to its last whole sentence or word.
export function sayMore(words) {
    const now = performance.now();
    if (now - spokenAt < SAY_EVERY_MS) return;
    const rest = words().slice(spoken);
    const cut = Math.max(...[". ", "! ", "? ", "\n"].map((s) => rest.lastIndexOf(s))) + 1 ||
        rest.lastIndexOf(" ") + 1;
    if (cut <= 0) return;
    say(rest.slice(0, Math.min(cut, SAY_AT_MOST)));
    spoken += cut;
    spokenAt = now;
}

export function sayEnd(text, ending) {
    const rest = text.slice(spoken, spoken + SAY_AT_MOST);
    say(rest + (rest ? " — " : "") + ending);
}
