// The page: wires data (talk.js), drawing (view.js), settings (controls.js) and the server (api.js)
// together. One answer is made at a time; other branches can be read meanwhile.
import { apiKey, call, generate, json, Problem } from "./api.js";
import { closeBox, openAt } from "./alternatives.js";
import { chosen, drawControls, firstWrong, getValue, resetControls, setLimits, setMode, setValue }
    from "./controls.js";
import { hideKeyForm, hideProblem, say, sayBegin, sayEnd, sayMore, showKeyForm, showLoading,
    showProblem, showText, showUndo, showUnreachable } from "./notices.js";
import { dropSession, forkSession, isOfSession, noteSession, promptFields, useSessions }
    from "./sessions.js";
import { addToken, asJson, asText, forkAfter, forkWith, given, made, messages, newBranch, pack,
    textOf, unpack, wholeText } from "./talk.js";
import { $, count, h, rate, recall, remember, seconds, shortNumber, store, stored }
    from "./util.js";
import { drawBranch, drawNow, drawSoon, setHandlers, setRunning, toBottom } from "./view.js";

const HEALTH_MS = 500, WAIT_MS = 250;
const modes = {
    prompt: { branches: [newBranch()], at: 0, draft: "" },
    chat: { branches: [newBranch()], at: 0, draft: "" },
};
let mode = "prompt";
let model = null; // its row of /v1/models
let running = null; // {branch, turn, abort}
const text = $("text");

const here = () => modes[mode].branches[modes[mode].at];

// ---- drawing ----

function emptyHint() {
    if (mode === "chat") {
        const plain = model && model.meta && model.meta.chat_template === "plain";
        return [h("div", { class: "empty" }, h("h2", {}, "A conversation"), h("p", {}, plain ?
            "This model has no chat template: it goes on with what was said, and was not taught " +
            "to answer." : "Write a message; the model answers it."))];
    }
    const begin = (words) => h("button", { type: "button", onclick: () => {
        text.value = words;
        text.focus();
        fit();
    } }, words);
    return [h("div", { class: "empty" }, h("h2", {}, "A text, continued"),
        h("p", {}, "Write how it begins; the model goes on from there. Point at a word to see " +
            "what else it could have been."),
        h("p", { class: "tools" }, begin("Once upon a time"), begin("The old lighthouse")))];
}

// What a tab remembers when it is loaded again: gone when it is closed.
function keep() {
    modes[mode].draft = text.value;
    store("talk", pack(modes, mode));
}

function draw() {
    const m = modes[mode], branch = here(), used = m.branches.some((b) => b.turns.length > 0);
    drawBranch(branch, mode === "chat", emptyHint());
    $("branchbar").hidden = !used;
    $("branches").replaceChildren(...(m.branches.length < 2 ? [] : m.branches.map(branchChip)));
    const busy = running && running.branch === branch;
    $("fork").disabled = Boolean(busy) || branch.turns.length === 0;
    if (busy) setRunning(running.turn, true);
    keep();
    drawSend();
    drawFigures(branch.turns.filter((t) => t.role === "assistant").pop());
}

function branchChip(branch, i) {
    const current = i === modes[mode].at;
    const name = "Branch " + (i + 1);
    const chip = h("button", {
        type: "button", class: "chip", "aria-current": current ? "true" : null,
        "aria-label": name, title: name, onclick: () => goTo(i),
    }, String(i + 1));
    const close = current && h("button", {
        type: "button", class: "chip close", "aria-label": "Close branch " + (i + 1),
        title: "Close this branch", onclick: () => closeBranch(i),
    }, "×");
    return h("li", {}, chip, close || null);
}

function drawSend() {
    const chat = mode === "chat", busy = Boolean(running);
    $("send").firstChild.textContent = (chat ? "Send" : "Continue") + " ";
    $("text-label").textContent = chat ? "Message" : here().turns.length ? "Add to the text" :
        "Text to continue";
    text.placeholder = chat ? "" : here().turns.length ? "Leave empty to just go on" : "";
    // The focus must not fall off the page with the button that has it.
    const held = document.activeElement;
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    if (held === $("send") && busy) $("stop").focus();
    if (held === $("stop") && !busy) text.focus();
}

function figure(name, value, title) {
    return h("div", { title }, h("dt", { class: name ? null : "hidden" }, name || "ending"),
        h("dd", { class: name ? null : "ending" }, value));
}

const ENDINGS = {
    length: "token limit reached", eos: "end of text", stop: "ended", stopped: "stopped",
    broken: "broken off", cancelled: "cancelled by the server", forked: "another token chosen",
};

function drawFigures(turn) {
    if (!turn || !turn.began) {
        $("figures").replaceChildren();
        return;
    }
    const n = turn.count || 0, ms = turn.last - turn.first;
    const list = [figure("tokens", n.toLocaleString("en"))];
    if (turn.rate || (n > 1 && ms > 0))
        list.unshift(figure("tokens/s", rate(turn.rate || (n - 1) * 1000 / ms),
            "after the first token"));
    if (turn.first) list.push(figure("first token", seconds(turn.first - turn.began)));
    else if (!turn.reason) list.push(figure("waiting", seconds(performance.now() - turn.began)));
    if (turn.prompt) {
        list.push(figure("prompt", turn.prompt.toLocaleString("en")));
        list.push(figure("cached", turn.cached.toLocaleString("en"),
            "tokens of the prompt that needed no computing"));
    }
    if (turn.reason) list.push(figure("", ENDINGS[turn.reason] || turn.reason));
    $("figures").replaceChildren(...list);
}

function fit() {
    text.style.height = "auto";
    text.style.height = Math.min(text.scrollHeight + 2, innerHeight * 0.4) + "px";
}

// ---- branches ----

function goTo(i) {
    const m = modes[mode], held = document.activeElement.closest("#branches, .actions");
    m.at = Math.min(Math.max(i, 0), m.branches.length - 1);
    draw();
    toBottom();
    if (held) (document.querySelector("#branches [aria-current]") || text).focus();
}

// shared: the turns it begins with are those of the branch that is shown.
function addBranch(branch, shared) {
    forkSession(here(), branch, shared);
    modes[mode].branches.push(branch);
    goTo(modes[mode].branches.length - 1);
    say("Branch " + modes[mode].branches.length + ".");
    return branch;
}

// For what takes text away: how to have it back.
function undoing(text) {
    const name = mode, { branches, at } = modes[name], before = { branches: [...branches], at };
    if (!branches.some((b) => b.turns.length > 0)) return;
    showUndo(text, () => {
        Object.assign(modes[name], before);
        switchMode(name);
    });
}

function closeBranch(i) {
    undoing("Branch " + (i + 1) + " is closed.");
    const m = modes[mode], [gone] = m.branches.splice(i, 1);
    if (running && running.branch === gone) stop();
    dropSession(gone);
    if (m.branches.length === 0) m.branches.push(newBranch());
    goTo(Math.min(m.at, m.branches.length - 1));
}

function startOver() {
    const m = modes[mode];
    if (running && m.branches.includes(running.branch)) stop();
    m.branches.forEach(dropSession);
    hideProblem();
    undoing("The text is gone.");
    m.branches = [newBranch()];
    goTo(0);
    text.focus();
}

// Continue in two ways: the branch as it is, and a copy that goes its own way.
function fork(n) {
    const branch = here();
    if (branch.turns.length === 0 || (running && running.branch === branch)) return;
    const shared = n === undefined ? branch.turns.length : n;
    addBranch(forkAfter(branch, shared), shared);
    text.focus();
}

function tryAgain(branch, n) {
    answer(addBranch(forkAfter(branch, n), n));
    text.focus();
}

function edit(branch, n) {
    const words = mode === "chat" ? textOf(branch.turns[n]) : wholeText(branch);
    const shared = mode === "chat" ? n : 0;
    addBranch(forkAfter(branch, shared), shared);
    text.value = words;
    fit();
    text.focus();
}

function act(name, title, f) {
    return h("button", { type: "button", title, onclick: f }, name);
}

function keepSeed(turn) {
    setValue("seed", turn.seed);
    say("The seed is set to " + turn.seed + ".");
}

function actions(branch, turn, n) {
    if (running && running.turn === turn) return [];
    const list = [];
    if (turn.role === "user" && mode === "chat")
        list.push(act("Edit", "In a branch of its own", () => edit(branch, n)));
    if (turn.role === "assistant") {
        list.push(act("Another answer", "In a branch of its own", () => tryAgain(branch, n)));
        if (mode === "chat") list.push(act("Fork here", "", () => fork(n + 1)));
    }
    if (mode === "prompt")
        list.push(act("Edit the text", "In a branch of its own", () => edit(branch, n)));
    if (turn.role === "assistant" && turn.seed)
        list.push(act("Keep seed " + turn.seed, "For the answers to come", () => keepSeed(turn)));
    return list;
}

// Going on with another token needs the text so far as the prompt: not in a chat.
function alternative(branch, n) {
    if (mode === "chat" || running) return null;
    return (index, a) => {
        closeBox();
        answer(addBranch(forkWith(branch, n, index, a), n));
        text.focus();
    };
}

// ---- answers ----

// turns: what is there before the answer. again: without the session that was refused.
async function request({ branch, turn, turns }, again) {
    const body = { ...turn.settings, stream: true }, wanted = Number(getValue("logprobs"));
    if (!turn.chat) {
        const fields = await promptFields(branch, turns, again);
        return ["generate", { ...body, ...fields, logprobs: wanted }];
    }
    body.messages = messages(turns, getValue("system").trim());
    body.stream_options = { include_usage: true };
    body.logprobs = true;
    if (wanted > 0) body.top_logprobs = wanted;
    return ["v1/chat/completions", body];
}

async function read(job, again) {
    const { turn } = job, [path, body] = await request(job, again);
    for await (const event of generate(path, body, job.abort.signal)) {
        const now = performance.now();
        if (event.done) {
            Object.assign(turn, event.done);
            noteSession(job.branch, event.done);
            continue;
        }
        turn.first = turn.first || now;
        turn.last = now;
        addToken(turn, event.token);
        sayMore(() => textOf(turn));
        drawSoon(turn, () => here() === job.branch && drawFigures(turn));
    }
}

async function readAnyway(job) {
    try {
        await read(job, false);
    } catch (e) {
        if (!isOfSession(job.branch, e)) throw e;
        await read(job, true);
    }
}

// Nothing came: the branch and the text field are as they were.
function takeBack(branch, turn) {
    branch.turns = branch.turns.filter((t) => t !== turn);
    const last = branch.turns[branch.turns.length - 1];
    if (!last || last.role !== "user" || text.value !== "") return;
    branch.turns = branch.turns.slice(0, -1);
    text.value = last.text;
    fit();
}

function failed(job, e) {
    const { branch, turn } = job;
    turn.reason = e.name === "AbortError" ? "stopped" : "broken";
    if (turn.tokens.length === 0) takeBack(branch, turn);
    if (turn.reason === "stopped") return;
    const problem = e instanceof Problem ? e : new Problem(-1, { message: e.message }, 0);
    if (problem.status === 401) {
        showKeyForm(Boolean(apiKey()), connect);
    } else {
        const again = problem.status === 0 || problem.status >= 429 ||
            (problem.status === -1 && !turn.chat);
        showProblem(problem, again ? () => submit() : null);
    }
    if (problem.status === 0 || problem.code === "loading") connect();
}

async function answer(branch) {
    if (running) return;
    const turn = made(chosen(), mode === "chat"), turns = branch.turns;
    const job = { branch, turn, turns, abort: new AbortController() };
    branch.turns = [...turns, turn];
    const clock = setInterval(() => turn.first || here() !== branch || drawFigures(turn), WAIT_MS);
    running = job;
    turn.began = performance.now();
    hideProblem();
    draw();
    toBottom();
    sayBegin();
    try {
        await readAnyway(job);
    } catch (e) {
        failed(job, e);
    }
    clearInterval(clock);
    running = null;
    drawNow(turn);
    setRunning(turn, false);
    draw();
    sayEnd(textOf(turn), count(turn.count || 0, "token") + ", " + (ENDINGS[turn.reason] ||
        turn.reason) + ".");
}

function submit() {
    const branch = here(), wrong = firstWrong(), words = text.value;
    if (running) return;
    if (wrong) {
        openSettings(true);
        wrong.field.focus();
        showText("A setting is not right.", wrong.text);
        return;
    }
    if (words === "" && (mode === "chat" || branch.turns.length === 0)) {
        text.focus();
        return;
    }
    if (words !== "") branch.turns = [...branch.turns, given(words)];
    text.value = "";
    fit();
    answer(branch);
}

function stop() {
    if (running) running.abort.abort();
}

// ---- the server ----

async function waitReady() {
    for (;;) {
        let health = null;
        try {
            health = await json("health", { good: [503] });
        } catch (e) {
            // not there yet, or a proxy without us
        }
        showUnreachable(!health);
        showLoading(health && health.status === "loading" ? health.progress : null);
        if (health && health.status !== "loading") return;
        await new Promise((go) => setTimeout(go, HEALTH_MS));
    }
}

function properties(document_, name) {
    const schema = document_.components.schemas[name];
    return (schema && schema.properties) || {};
}

async function learn() {
    const [list, description] = await Promise.all([json("v1/models"), json("openapi.json")]);
    model = list.data[0];
    const meta = model.meta || {};
    $("model").textContent = model.id;
    $("model").title = meta.parameters ? shortNumber(meta.parameters) + " parameters, " +
        meta.layers + " layers, weights " + meta.weights : "";
    document.title = model.id + " – tnl";
    setLimits(properties(description, "GenerateRequest"),
        properties(description, "ChatCompletionRequest"));
    useSessions("session_id" in properties(description, "GenerateRequest"));
    if (meta.text === false)
        showText("This model has no tokenizer.", "It takes and returns token ids; this page " +
            "needs text.");
    if (here().turns.length === 0) draw();
}

let connecting = false;

async function connect() {
    if (connecting) return;
    connecting = true;
    try {
        await waitReady();
        await learn();
        hideKeyForm();
    } catch (e) {
        if (e.status === 401) showKeyForm(Boolean(apiKey()), connect);
        else showProblem(e instanceof Problem ? e : new Problem(0, null, 0), connect);
    }
    connecting = false;
}

// ---- the frame ----

function setTheme(theme) {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").textContent = "Theme: " + theme;
    remember("theme", theme);
}

function nextTheme() {
    const order = ["auto", "light", "dark"], now = document.documentElement.dataset.theme || "auto";
    setTheme(order[(order.indexOf(now) + 1) % order.length]);
}

function openSettings(on) {
    document.body.classList.toggle("settings", on);
    $("settings-open").setAttribute("aria-expanded", String(on));
}

function toggleSettings() {
    const on = !document.body.classList.contains("settings");
    openSettings(on);
    if (on) $("settings").querySelector("input").focus();
    else $("settings-open").focus();
    remember("panel", on);
}

function switchMode(to) {
    modes[mode].draft = text.value;
    mode = to;
    document.querySelector(`input[name=mode][value=${to}]`).checked = true;
    text.value = modes[mode].draft;
    setMode(mode);
    fit();
    draw();
}

async function copy(id, words) {
    const name = $(id).textContent;
    let done = true;
    try {
        await navigator.clipboard.writeText(words);
    } catch (e) { // no permission, or the page came over plain HTTP
        const field = h("textarea", { class: "hidden", value: words, "aria-hidden": "true" });
        document.body.append(field);
        field.select();
        done = document.execCommand("copy");
        field.remove();
    }
    $(id).textContent = done ? "Copied" : "Not copied";
    $(id).disabled = true;
    say($(id).textContent);
    setTimeout(() => {
        $(id).textContent = name;
        $(id).disabled = false;
    }, 1500);
}

// The last request as a line for a terminal, whole: without sessions.
async function copyCurl() {
    const branch = here(), n = branch.turns.findLastIndex((t) => t.role === "assistant");
    if (n < 0) return;
    const [path, body] = await request({ turn: branch.turns[n], turns: branch.turns.slice(0, n) },
        true);
    const quoted = (s) => "'" + s.replace(/'/g, "'\\''") + "'";
    const key = apiKey() ? " -H \"Authorization: Bearer $TNL_API_KEY\"" : "";
    await copy("copy-curl", "curl -N " + quoted(new URL(path, location.href).href) + key +
        " -H 'Content-Type: application/json' -d " + quoted(JSON.stringify(body)));
}

function save(type, ending, words) {
    const address = URL.createObjectURL(new Blob([words], { type }));
    const name = (model ? model.id.replace(/[^\w.-]+/g, "-") : "tnl") + "-" + mode + ending;
    h("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// ---- keys ----

const SINGLE = {
    "/": () => text.focus(), "?": () => $("keys").showModal(), n: startOver, f: () => fork(),
    s: toggleSettings, t: nextTheme, p: () => switchMode("prompt"), c: () => switchMode("chat"),
    "[": () => goTo(modes[mode].at - 1), "]": () => goTo(modes[mode].at + 1),
};

function onKey(e) {
    if ($("keys").open) return;
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) {
        e.preventDefault();
        submit();
    } else if (e.key === "Escape") {
        if (running) stop();
        else if (openAt()) closeBox();
        else if (innerWidth < 900) openSettings(false);
    } else if (e.key in SINGLE && $("single-keys").checked && !e.ctrlKey && !e.metaKey &&
        !e.altKey && !e.target.closest("input:not([type=radio],[type=checkbox]), textarea")) {
        e.preventDefault();
        SINGLE[e.key]();
    }
}

function wire() {
    const onclick = {
        stop, theme: nextTheme, new: startOver, "copy-curl": copyCurl,
        copy: () => copy("copy", asText(here(), mode === "chat")), fork: () => fork(),
        reset: resetControls,
        "settings-open": toggleSettings, "settings-close": toggleSettings,
        "keys-open": () => $("keys").showModal(),
        "save-text": () => save("text/plain", ".txt", asText(here(), mode === "chat")),
        "save-json": () => save("application/json", ".json",
            asJson(here(), mode === "chat", model && model.id)),
    };
    for (const [id, f] of Object.entries(onclick)) $(id).addEventListener("click", f);
    $("composer").addEventListener("submit", (e) => {
        e.preventDefault();
        submit();
    });
    for (const radio of document.querySelectorAll("input[name=mode]"))
        radio.addEventListener("change", () => switchMode(radio.value));
    text.addEventListener("input", fit);
    matchMedia("(max-width: 56.24rem)").addEventListener("change", (e) => {
        openSettings(!e.matches && recall("panel") !== false);
    });
    document.addEventListener("keydown", onKey);
    addEventListener("pagehide", () => {
        keep();
        modes.prompt.branches.forEach(dropSession);
    });
    document.addEventListener("pointerdown", (e) => {
        if (openAt() && !e.target.closest(".t, #alternatives")) closeBox();
    });
    $("single-keys").checked = recall("single-keys") !== false;
    $("single-keys").addEventListener("change", (e) => remember("single-keys", e.target.checked));
}

setHandlers({ actions, alternative });
drawControls((name, value) => {
    if (name === "tint") document.body.classList.toggle("tint", value);
});
setTheme(recall("theme") || "auto");
openSettings(innerWidth >= 900 && recall("panel") !== false);
wire();
mode = unpack(modes, stored("talk")) || "prompt";
text.value = modes[mode].draft;
switchMode(mode);
toBottom();
text.focus();
connect();
