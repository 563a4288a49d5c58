// Talking to the server. Every address is relative, so that the page works wherever a proxy or
// --base-path puts it.

const KEY = "tnl.key";
let held = null; // the key, where the browser has no storage

export function apiKey() {
    try {
        return sessionStorage.getItem(KEY) || held;
    } catch (e) {
        return held;
    }
}

// For this tab only: gone when it is closed.
export function setApiKey(key) {
    held = key;
    try {
        if (key) sessionStorage.setItem(KEY, key);
        else sessionStorage.removeItem(KEY);
    } catch (e) {
        // kept in `held`
    }
}

export class Problem extends Error {
    constructor(status, error, retryAfter) {
        super((error && error.message) || "");
        this.status = status; // 0: no answer, -1: the answer broke off
        this.code = (error && error.code) || "";
        this.param = (error && error.param) || "";
        this.retryAfter = retryAfter;
    }
}

async function problemOf(response) {
    let error = null;
    try {
        error = (await response.json()).error;
    } catch (e) {
        // not ours: a proxy speaks
    }
    if (typeof error === "string") error = { message: error };
    return new Problem(response.status, error, Number(response.headers.get("Retry-After")) || 0);
}

// The response, or a Problem. An abort stays an AbortError.
export async function call(path, { method = "GET", body, signal, good, keepalive } = {}) {
    const headers = {};
    const key = apiKey();
    if (key) headers.Authorization = "Bearer " + key;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
        response = await fetch(path, {
            method, headers, signal, keepalive, cache: "no-store",
            body: body === undefined ? undefined : JSON.stringify(body),
        });
    } catch (e) {
        if (e.name === "AbortError") throw e;
        throw new Problem(0, null, 0);
    }
    if (!response.ok && !(good && good.includes(response.status))) throw await problemOf(response);
    return response;
}

export async function json(path, options) {
    return (await call(path, options)).json();
}

// The objects of a stream, whether a line is one or carries one as a server-sent event.
async function* objects(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
        let part;
        try {
            part = await reader.read();
        } catch (e) {
            if (e.name === "AbortError") throw e;
            throw new Problem(-1, null, 0);
        }
        if (part.done) return;
        const lines = (rest + part.value).split("\n");
        rest = lines.pop();
        for (let line of lines) {
            if (line.startsWith("data: ")) line = line.slice(6);
            if (line === "" || line.startsWith(":") || line === "[DONE]") continue;
            yield JSON.parse(line);
        }
    }
}

function fail(error) {
    throw new Problem(500, error, 0);
}

// POST /generate: {token} for each token, then {done}.
async function* ours(response) {
    for await (const o of objects(response)) {
        if (o.token) {
            const alts = (o.token.top_logprobs || [])
                .map((a) => ({ id: a.id, text: a.text, logprob: a.logprob }));
            yield { token: { id: o.token.id, text: o.token.text, logprob: o.token.logprob, alts } };
            continue;
        }
        if (o.error) fail(o.error);
        yield {
            done: {
                reason: o.finish_reason,
                prompt: o.usage.prompt_tokens,
                cached: o.timings.cached_tokens,
                rate: o.timings.decode_tokens_per_s,
                session: o.session_id,
            },
        };
    }
}

// POST /v1/chat/completions: the same events from its chunks.
async function* chat(response) {
    const done = { reason: "", prompt: 0, cached: 0 };
    for await (const o of objects(response)) {
        if (o.error) fail(o.error);
        if (o.usage) {
            done.prompt = o.usage.prompt_tokens;
            done.cached = (o.usage.prompt_tokens_details || {}).cached_tokens || 0;
        }
        for (const c of o.choices) {
            const one = ((c.logprobs && c.logprobs.content) || [])[0];
            if (one) {
                const alts = one.top_logprobs.map((a) => ({ text: a.token, logprob: a.logprob }));
                const text = c.delta.content || "";
                yield { token: { piece: one.token, text, logprob: one.logprob, alts } };
            }
            if (c.finish_reason) done.reason = c.finish_reason;
        }
    }
    if (done.reason) yield { done };
}

// Generates; a stream without an end is a Problem of status -1.
export async function* generate(path, body, signal) {
    const response = await call(path, { method: "POST", body, signal });
    let ended = false;
    for await (const event of path === "generate" ? ours(response) : chat(response)) {
        ended = ended || Boolean(event.done);
        yield event;
    }
    if (!ended) throw new Problem(-1, null, 0);
}

// A problem in words: what happened, and what to do.
export function words(p) {
    const wait = p.retryAfter ? p.retryAfter + " s." : "a moment.", again = " Try again in " + wait;
    const said = p.message ? " The server says: " + p.message : "";
    if (p.status === 0)
        return ["The server does not answer.", "Look whether it is still running and can be " +
            "reached. What you wrote is kept: send it again."];
    if (p.status === -1)
        return ["The answer broke off.", "The connection or the server ended before the answer " +
            "did. What has arrived is kept: continue from there."];
    if (p.status === 401)
        return ["The server asks for an API key.", "Enter it above, then send again."];
    if (p.status === 429)
        return ["The limit of this API key is reached.", said.trim() + again];
    if (p.code === "queue_full" || p.code === "queue_timeout")
        return ["The server is busy.", "All its places are taken." + again];
    if (p.code === "loading") return ["The model is still loading.", again.trim()];
    if (p.code === "draining")
        return ["The server is shutting down.", "It takes no new requests. Send again when it is " +
            "back."];
    if (p.code === "host" || p.code === "origin")
        return ["The server does not accept requests from this address.", "A proxy in between " +
            "must pass the Host header on, and the server must be started with --allowed-host." +
            said];
    if (p.status === 413 || p.code === "prompt_too_long")
        return ["The text is too long for this server.", "Shorten it, or start over." + said];
    if (p.code === "prompt_empty")
        return ["There is nothing to continue.", "Write some text first."];
    if (p.param)
        return ["The server refuses the value of " + p.param + ".", "Change it in the settings." +
            said];
    if (p.status >= 500) return ["The server failed (" + p.status + ").", said.trim() + again];
    return ["The server refused the request (" + p.status + ").", said.trim()];
}
