// Conversations as data. A branch is a list of turns {role, text | tokens, ...}; a fork is a new
// branch that shares the turns before it. Finished turns never change, so sharing is safe.

// session, forking: see sessions.js
export function newBranch(turns = []) {
    return { turns, session: null, forking: null };
}

export const given = (text) => ({ role: "user", text });

export function made(settings, chat) {
    return {
        role: "assistant", chat, tokens: [], tail: "", seed: settings.seed, settings,
        reason: "", prompt: 0, cached: 0, began: 0, first: 0, last: 0,
    };
}

// After so many tokens an answer keeps text only: a page should not eat a machine.
export const MAX_TOKENS = 10000;

export function addToken(turn, token) {
    if (turn.tokens.length < MAX_TOKENS) turn.tokens.push(token);
    else turn.tail += token.text;
    turn.count = (turn.count || 0) + 1;
}

export function textOf(turn) {
    if (turn.role === "user") return turn.text;
    return turn.tokens.map((t) => t.text).join("") + turn.tail;
}

export const wholeText = (branch) => branch.turns.map(textOf).join("");

// The messages of a chat; an answer without text is not one.
export function messages(turns, system) {
    const list = turns
        .map((t) => ({ role: t.role, content: textOf(t) })).filter((m) => m.content !== "");
    return system ? [{ role: "system", content: system }, ...list] : list;
}

// A branch that goes on after the first `n` turns of another.
export function forkAfter(branch, n) {
    return newBranch(branch.turns.slice(0, n));
}

// A branch in which token `at` of turn `n` is another one.
export function forkWith(branch, n, at, alternative) {
    const old = branch.turns[n];
    const turn = { ...old, tokens: old.tokens.slice(0, at), tail: "", reason: "forked" };
    const { text, logprob } = alternative;
    turn.tokens.push({ ...alternative, text, logprob, alts: old.tokens[at].alts, chosen: true });
    turn.count = turn.tokens.length;
    return newBranch([...branch.turns.slice(0, n), turn]);
}

export function asText(branch, chat) {
    if (!chat) return wholeText(branch);
    const name = { user: "You", assistant: "Model" };
    return branch.turns.map((t) => name[t.role] + ":\n" + textOf(t).trim() + "\n").join("\n");
}

export function asJson(branch, chat, model) {
    const turns = branch.turns.map((t) => {
        if (t.role === "user") return { role: t.role, text: t.text };
        const tokens = t.tokens.map(({ id, text, logprob, alts }) =>
            ({ id, text, logprob, alternatives: alts }));
        return { role: t.role, text: textOf(t), ended: t.reason, settings: t.settings, tokens };
    });
    return JSON.stringify({ model, mode: chat ? "chat" : "prompt", turns }, null, 1) + "\n";
}

// ---- to be found again after a reload ----

const DETAILED = 4000; // tokens kept with their alternatives

function packTurn(turn, room) {
    if (turn.role === "user") return turn;
    const { settings, seed, chat } = turn, reason = turn.reason || "stopped";
    const kept = { role: turn.role, settings, seed, chat, reason, count: turn.count };
    if (turn.tokens.length > room.left) return { ...kept, tokens: [], tail: textOf(turn) };
    room.left -= turn.tokens.length;
    return { ...kept, tokens: turn.tokens, tail: turn.tail };
}

export function pack(modes, mode) {
    const room = { left: DETAILED }, out = { mode };
    for (const [name, m] of Object.entries(modes)) {
        const branches = m.branches.map((b) => b.turns.map((t) => packTurn(t, room)));
        out[name] = { branches, at: m.at, draft: m.draft };
    }
    return out;
}

// Fills modes; the mode that was on, or null if there is nothing.
export function unpack(modes, kept) {
    try {
        const found = {};
        for (const name of Object.keys(modes)) {
            const { branches, at, draft } = kept[name];
            const list = branches.map((turns) => newBranch(turns));
            list[at].turns.forEach(textOf); // is it what it should be?
            found[name] = { branches: list, at, draft };
        }
        if (!(kept.mode in found)) return null;
        Object.assign(modes, found);
        return kept.mode;
    } catch (e) {
        return null;
    }
}
