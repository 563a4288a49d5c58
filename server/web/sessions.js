// Sessions: the server keeps the text of a branch, so that only what is new is sent, and a fork
// costs nothing. A session is a shortcut: whenever it cannot be used, the whole text goes out again.
// Prompts only: a chat's template wants all messages.
import { call, json } from "./api.js";
import { textOf } from "./talk.js";

let on = false;

export function useSessions(yes) {
    on = yes;
}

const textFrom = (turns, n) => turns.slice(n).map(textOf).join("");

// The fields that tell the server what to continue. branch.session: {id, upto: turns it holds}.
export async function promptFields(branch, turns, again) {
    if (!on || again) return { prompt: textFrom(turns, 0) };
    await branch.forking;
    const held = branch.session;
    return { prompt: textFrom(turns, held ? held.upto : 0), session_id: held ? held.id : "new" };
}

function remove(id) {
    call("sessions/" + id, { method: "DELETE", keepalive: true }).catch(() => {});
}

export function dropSession(branch) {
    if (branch.session) remove(branch.session.id);
    branch.session = null;
}

// After an answer. One that ended by itself has an end in the session that the text does not show:
// to go on from what is shown, the text is sent again.
export function noteSession(branch, done) {
    if (!done.session) return;
    if (done.reason === "length") {
        branch.session = { id: done.session, upto: branch.turns.length };
        return;
    }
    remove(done.session);
    branch.session = null;
}

// `to` begins with the same `shared` turns as `from`.
export function forkSession(from, to, shared) {
    const held = from.session;
    if (!held || held.upto > shared) return;
    to.forking = json("sessions/" + held.id + "/fork", { method: "POST", body: {} })
        .then((r) => {
            to.session = { id: r.session_id, upto: held.upto };
        })
        .catch(() => {}); // the text is sent instead
}

// A refusal that the whole text does not meet; the session is not to be used again.
export function isOfSession(branch, problem) {
    const codes = ["unknown_session", "session_busy", "session_limit", "not_supported"];
    if (!codes.includes(problem.code)) return false;
    if (problem.code === "not_supported") on = false;
    if (problem.code === "session_busy") dropSession(branch);
    branch.session = null;
    return true;
}
