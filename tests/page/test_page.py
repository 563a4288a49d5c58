"""The web page in a browser: what people see and do."""

import json
import shlex

import pytest

from harness import wait_until

KEY = "canary-3f9a-sixteen-and-more"
STORY = "Once upon a time"


def ndjson(tokens, **end):
    """A stream of POST /generate with these texts."""
    lines = [{"index": i, "token": {"id": 5 + i, "text": t, "logprob": -0.5, "top_logprobs": [
        {"id": 5 + i, "text": t, "logprob": -0.5}, {"id": 3, "text": "<b>x</b>", "logprob": -1.5}]}}
        for i, t in enumerate(tokens)]
    lines.append({"finish_reason": "length", "usage": {"prompt_tokens": 3, "completion_tokens": 1},
                  "timings": {"cached_tokens": 2}, **end})
    return (200, {"Content-Type": "application/x-ndjson"},
            "".join(json.dumps(x) + "\n" for x in lines))


def refusal(status, code, message="No.", param=None, **headers):
    error = {"message": message, "type": "t", "param": param, "code": code}
    return status, {"Content-Type": "application/json", **headers}, json.dumps({"error": error})


# ---- prompts ----

def test_text_is_what_the_server_made(tab, server):
    tab.ask(STORY, seed=7, max_tokens=60)
    want = server.generate(prompt=STORY, seed=7, max_tokens=60)
    assert tab.text(".given") == STORY and tab.text(".made") == want["text"]
    assert tab.count(".made > .t") == sum(1 for t in want["tokens"] if t["text"])
    figures = tab.text("#figures")
    n = len(want["tokens"])
    assert "tokens%d" % n in figures and "first token" in figures and "tokens/s" in figures
    assert "prompt%d" % want["usage"]["prompt_tokens"] in figures and "cached" in figures
    tab.shot("light")


def test_tokens_are_seen_as_they_come(tab):
    """And stopping ends them, here and on the server."""
    go_on(tab)
    tab.send(STORY, max_tokens=100000)
    first = tab.wait("document.querySelectorAll('.t').length")
    tab.wait("document.querySelectorAll('.t').length > %d" % (first + 20))
    assert tab.busy() and tab.visible("#stop") and not tab.visible("#send")
    assert "tokens/s" in tab.text("#figures")
    tab.click("#stop")
    tab.done()


def go_on(tab):
    """Answers that end only when they are stopped."""
    tab.js("(f => { window.fetch = (u, o) => f(u, u === \"generate\" ? {...o, body: JSON.stringify("
           "{...JSON.parse(o.body), ignore_eos: true})} : o); })(window.fetch)")


def cancelled(server):
    return server.metric('tnl_requests_finished_total{finish_reason="cancelled"}')


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_cancels_on_the_server(tab, server, how):
    before = cancelled(server)
    go_on(tab)
    tab.send(STORY, max_tokens=100000)
    tab.wait("document.querySelectorAll('.t').length > 5")
    if how == "button":
        tab.click("#stop")
    else:
        tab.press("Escape")
    tab.done()
    wait_until(lambda: cancelled(server) == before + 1, "the server counts it as cancelled")
    assert "stopped" in tab.text("#figures") and tab.count(".t") > 5
    assert tab.count("#problem") == 0
    tab.ask(max_tokens=5)  # and it goes on from there
    assert tab.bodies()[-1]["prompt"] == "".join(
        [STORY, tab.js("document.querySelectorAll('.made')[0].textContent")])


def test_going_on_at_once(tab, server):
    """While the server may still be busy with what was stopped."""
    tab.expected = ["status of 409"]
    tab.ask(STORY, max_tokens=4)
    go_on(tab)
    tab.send(" And", max_tokens=100000)
    tab.wait("document.querySelectorAll('.t').length > 8")
    tab.js("document.getElementById('stop').click()")
    tab.done()
    text = tab.text("#log .words")
    tab.js("document.getElementById('set-max_tokens').value = 4; document.getElementById("
           "'set-max_tokens').dispatchEvent(new Event('input')); "
           "document.getElementById('send').click()")
    tab.done()
    assert tab.count("#problem") == 0 and tab.count(".made") == 3
    body = tab.bodies()[-1]
    assert text.endswith(body["prompt"]) and ("session_id" in body or body["prompt"] == text)


def test_it_goes_on_from_the_whole_text(tab, server):
    tab.ask(STORY, max_tokens=8)
    one = tab.text(".made")
    tab.ask(" But then")
    assert tab.count(".given") == 2 and tab.count(".made") == 2
    body = tab.bodies()[-1]  # of which the server has the beginning
    assert body["prompt"] == " But then" and len(body["session_id"]) == 32
    text = server.get("/sessions/" + body["session_id"]).json["text"]
    assert text == tab.text("#log .words") and text.startswith(STORY + one + " But then")


def test_seed_is_kept(tab):
    tab.ask(STORY, max_tokens=20)
    text, seed = tab.text(".made"), tab.bodies()[-1]["seed"]
    tab.js("[...document.querySelectorAll('.actions button')].find(b => "
           "b.textContent.startsWith('Keep seed')).click()")
    assert tab.js("document.getElementById('set-seed').value") == seed
    tab.click("#new")
    tab.ask(STORY)
    assert tab.text(".made") == text


# ---- alternatives ----

def boxes(tab):
    return tab.js("[...document.querySelectorAll('#alternatives li')].map(e => [e.querySelector("
                  "'.word').textContent, e.querySelector('.share').textContent])")


def test_alternatives_on_hover(tab, server):
    tab.ask(STORY, seed=7, max_tokens=12)
    want = server.generate(prompt=STORY, seed=7, max_tokens=12, logprobs=5)["tokens"][3]
    tab.hover(".made .t:nth-child(4)")
    tab.wait("!document.getElementById('alternatives').hidden")
    got = boxes(tab)
    assert len(got) in (5, 6)
    for (word, share), alt in zip(got, want["top_logprobs"]):
        assert word.replace("␣", " ") == alt["text"].replace("\n", "⏎") and share.endswith("%")
        assert abs(float(share[:-1]) / 100 - 2.718281828459045 ** alt["logprob"]) < 0.002
    assert tab.count("#alternatives .same") == 1
    tab.hover("#model")
    tab.wait("document.getElementById('alternatives').hidden")


def test_alternatives_by_keyboard(tab):
    tab.ask(STORY, seed=7, max_tokens=12)
    tab.js("document.querySelector('.made').focus()")
    for _ in range(3):
        tab.press("ArrowRight")
    assert tab.js("document.activeElement === document.querySelectorAll('.made .t')[2]")
    assert tab.js("document.activeElement.getAttribute('aria-describedby')") == "alternatives"
    assert len(boxes(tab)) >= 5
    tab.press("ArrowLeft")
    assert tab.js("document.activeElement === document.querySelectorAll('.made .t')[1]")
    tab.press("End")
    tab.press("Home")
    tab.press("Enter")
    assert tab.js("document.activeElement.matches('#alternatives button')")
    tab.press("ArrowDown")
    name = tab.js("document.activeElement.querySelector('.word').textContent")
    tab.press("Escape")
    assert tab.js("document.activeElement === document.querySelector('.made .t')")
    assert not tab.visible("#alternatives")
    tab.press("ArrowRight")
    tab.press("ArrowLeft")
    tab.press("Enter")
    tab.press("ArrowDown")
    tab.press("Enter")  # goes on with that one, in a branch
    tab.wait("document.querySelectorAll('#branches li').length === 2")
    tab.done()
    assert tab.text(".made .t.chosen") == name.replace("␣", " ")
    assert tab.bodies()[-1]["prompt"] == STORY + name.replace("␣", " ")


def test_alternatives_by_touch(tab):
    tab.ask(STORY, max_tokens=12, seed=7)
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True)

    def tap(selector):
        at = [tab.center(selector)]
        tab.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=at)
        tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    tap(".made .t:nth-child(3)")
    tab.wait("!document.getElementById('alternatives').hidden")
    assert tab.js("new Promise(r => setTimeout(() => r(!document.getElementById('alternatives')"
                  ".hidden), 400))"), "it stays"
    tap("#model")
    tab.wait("document.getElementById('alternatives').hidden")


def test_number_of_alternatives(tab):
    tab.ask(STORY, logprobs=2, max_tokens=3, seed=7)
    assert tab.bodies()[-1]["logprobs"] == 2
    tab.hover(".made .t")
    tab.wait("!document.getElementById('alternatives').hidden")
    assert len(boxes(tab)) in (2, 3)


def test_tint(tab):
    tab.ask(STORY, max_tokens=60, seed=7)
    colours = ("new Set([...document.querySelectorAll('.made .t')]"
               ".map(e => getComputedStyle(e).backgroundColor)).size")
    assert tab.js(colours) == 1
    tab.set("tint", True)
    assert tab.js(colours) > 2


# ---- chat ----

def test_chat_keeps_its_context(tab):
    tab.chat()
    tab.ask("Tell me of a king.", max_tokens=12, system="Be brief.")
    tab.ask("And then?")
    first, second = tab.bodies()
    assert [m["role"] for m in second["messages"]] == ["system", "user", "assistant", "user"]
    answer = tab.js("document.querySelector('.message.assistant .made').textContent")
    assert second["messages"][2]["content"].strip() == answer.strip() != ""
    assert first["messages"] == second["messages"][:2]
    assert tab.count(".message") == 4 and "prompt" in tab.text("#figures")
    tab.hover(".message.assistant .t:nth-child(3)")
    tab.wait("!document.getElementById('alternatives').hidden")
    assert len(boxes(tab)) >= 5 and tab.count("#alternatives button") == 0
    tab.shot("chat")


def test_modes_keep_to_themselves(tab):
    tab.ask(STORY, max_tokens=5)
    tab.write("half a thought")
    tab.chat()
    assert tab.count(".made") == 0 and tab.js("document.getElementById('text').value") == ""
    tab.click("input[value=prompt]")
    assert tab.count(".made") == 1
    assert tab.js("document.getElementById('text').value") == "half a thought"


# ---- branches ----

def test_fork(tab):
    tab.ask(STORY, max_tokens=8, seed=7)
    one = tab.text("#log .words")
    tab.click("#fork")
    assert tab.text("#log .words") == one and tab.count("#branches li") == 2
    tab.ask(" North", seed=1)
    tab.click("#branches li:nth-child(1) button")
    assert tab.text("#log .words") == one
    tab.ask(" South", seed=2)
    assert tab.text("#log .words").startswith(one + " South")
    tab.click("#branches li:nth-child(2) button")
    assert tab.text("#log .words").startswith(one + " North")
    assert tab.focused() == "chip"
    tab.click(".chip.close")
    assert tab.count("#branches li") == 0 and tab.text("#log .words").startswith(one + " South")


def test_fork_of_a_session(tab, server):
    tab.ask(STORY, max_tokens=8, seed=7)
    tab.click("#fork")
    tab.ask(" North")
    tab.click("#branches li:nth-child(1) button")
    tab.ask(" South")
    _, north, south = [b for b in tab.bodies() if b]
    assert (north["prompt"], south["prompt"]) == (" North", " South")
    assert north["session_id"] != south["session_id"]
    assert [r["url"] for r in tab.requests if r["url"].endswith("/fork")] == [
        "%ssessions/%s/fork" % (tab.address, south["session_id"])]
    assert server.get("/sessions/" + south["session_id"]).json["text"] == tab.text("#log .words")
    tab.click("#new")
    for body in (north, south):
        wait_until(lambda: server.get("/sessions/" + body["session_id"]).status == 404,
                   "the page lets go of its sessions")


def test_a_session_that_is_gone(tab, server):
    tab.expected = ["status of 404"]
    tab.ask(STORY, max_tokens=8, seed=7)
    tab.ask(" But")
    assert server.ask("DELETE", "/sessions/" + tab.bodies()[-1]["session_id"]).status == 200
    before = tab.text("#log .words")
    tab.ask(" then")
    assert tab.bodies()[-1]["prompt"] == before + " then"
    assert "session_id" not in tab.bodies()[-1]
    assert tab.text("#log .words").startswith(before + " then") and tab.count("#problem") == 0


def test_without_sessions(visit, start):
    tab = visit(start("--sessions", "0")).open()
    tab.expected = ["status of 501"]
    tab.ask(STORY, max_tokens=8)
    text = tab.text("#log .words")
    assert text != STORY
    tab.ask(" But")
    assert tab.bodies()[-1]["prompt"] == text + " But" and "session_id" not in tab.bodies()[-1]


def test_another_answer_and_edit(tab):
    tab.chat()
    tab.ask("A", max_tokens=4)
    tab.js("[...document.querySelectorAll('.actions button')].find(b => "
           "b.textContent === 'Another answer').click()")
    tab.done()
    assert tab.count("#branches li") == 2 and tab.count(".message") == 2
    assert tab.bodies()[-1]["messages"] == tab.bodies()[0]["messages"]
    assert tab.bodies()[-1]["seed"] != tab.bodies()[0]["seed"]
    tab.js("[...document.querySelectorAll('.actions button')].find(b => "
           "b.textContent === 'Edit').click()")
    assert tab.js("document.getElementById('text').value") == "A" and tab.count(".message") == 0


def test_undo(tab):
    tab.ask(STORY, max_tokens=8)
    text = tab.text("#log .words")
    tab.click("#fork")
    tab.click(".chip.close")
    assert tab.count("#branches li") == 0 and "closed" in tab.text("#problem")
    tab.click("#problem button")
    assert tab.count("#branches li") == 2
    tab.click("#new")
    assert tab.count(".made") == 0
    tab.chat()
    tab.click("#problem button")
    assert tab.text("#log .words") == text and tab.count("#branches li") == 2
    assert tab.count("#problem") == 0
    tab.ask(" And", max_tokens=4)
    assert tab.text("#log .words").startswith(text + " And")


def test_reading_another_branch_meanwhile(tab):
    go_on(tab)
    tab.ask(STORY, max_tokens=4)
    tab.click("#fork")
    tab.send(" And", max_tokens=100000)
    tab.wait("document.querySelectorAll('.t').length > 8")
    tab.click("#branches li:nth-child(1) button")
    assert tab.count(".t") <= 5 and tab.busy()
    tab.click("#branches li:nth-child(2) button")
    n = tab.wait("document.querySelectorAll('.t').length > 8 && "
                 "document.querySelectorAll('.t').length")
    tab.wait("document.querySelectorAll('.t').length > %d" % n)
    tab.click("#new")
    tab.done()
    assert tab.count(".t") == 0


def test_a_reload_loses_nothing(tab):
    tab.ask(STORY, max_tokens=8, seed=7)
    tab.click("#fork")
    tab.ask(" North")
    text = tab.text("#log .words")
    tab.write("half a thought")
    tab.chat()
    tab.open()
    assert tab.js("document.querySelector('[name=mode]:checked').value") == "chat"
    tab.click("input[value=prompt]")
    assert tab.text("#log .words") == text and tab.count("#branches li") == 2
    assert tab.js("document.getElementById('text').value") == "half a thought"
    tab.hover(".made .t:nth-child(2)")
    tab.wait("!document.getElementById('alternatives').hidden")
    assert len(boxes(tab)) >= 5
    tab.js("document.getElementById('text').value = ''")
    tab.ask()
    assert tab.bodies()[-1]["prompt"] == text
    tab.click("#new")
    tab.open()
    assert tab.count(".made") == 0 and tab.count("#branches li") == 0


@pytest.mark.parametrize("kept", ["{", "7", '{"mode":"prompt"}', "[]", json.dumps({
    "mode": "prompt", "chat": {"branches": [[]], "at": 0, "draft": ""},
    "prompt": {"branches": [[{"role": "assistant"}]], "at": 0, "draft": ""}})])
def test_odd_memories_are_ignored(tab, kept):
    tab.page.call("Page.addScriptToEvaluateOnNewDocument", source="sessionStorage.setItem("
                  "'tnl.talk', %s); localStorage.setItem('tnl.settings', %s);" % (
                      json.dumps(kept), json.dumps(kept)))
    tab.open()
    tab.ask(STORY, max_tokens=3)
    assert tab.count(".made") == 1


# ---- settings ----

def test_ranges_are_the_servers(tab, server):
    fields = server.get("/openapi.json").json["components"]["schemas"]["GenerateRequest"][
        "properties"]
    for name in ["temperature", "top_p", "min_p", "top_k", "max_tokens", "logprobs", "speculate"]:
        assert float(tab.js("document.getElementById('set-%s').max" % name)) == (
            fields[name]["maximum"])
    tab.chat()
    assert tab.js("document.getElementById('set-temperature').max") == "2"


@pytest.mark.parametrize("name,value,says", [
    ("temperature", "101", "from 0 to 100"), ("temperature", "", "missing"),
    ("top_k", "1.5", "whole"), ("repetition_penalty", "0", "above 0"), ("seed", "-1", "whole"),
    ("seed", str(2 ** 64), "2^64"), ("stop", "\n".join("abcdefghijklmnopq"), "16"),
    ("stop", "é" * 129, "256 bytes")])
def test_wrong_settings_are_said(tab, name, value, says):
    tab.send(STORY, **{name: value})
    assert says in tab.text("#wrong-" + name) and says in tab.text("#problem")
    assert tab.focused() == "set-" + name and not tab.busy() and not tab.bodies()
    assert tab.js("document.activeElement.getAttribute('aria-invalid')") == "true"


def test_settings_reach_the_server(tab):
    tab.ask(STORY, temperature=0.5, top_p=0.9, top_k=40, min_p=0.01, repetition_penalty=1.1,
            max_tokens=3, seed=2 ** 64 - 1, stop="\\n\nThe end", speculate=0)
    body = tab.bodies()[-1]
    assert body.pop("session_id") == "new"
    assert body == {"prompt": STORY, "stream": True, "logprobs": 5, "temperature": 0.5,
                    "top_p": 0.9, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1,
                    "max_tokens": 3, "seed": str(2 ** 64 - 1), "stop": ["\n", "The end"],
                    "speculate": 0}
    tab.open()  # and are kept
    assert tab.js("document.getElementById('set-top_k').value") == "40"
    tab.click("#reset")
    assert tab.js("document.getElementById('set-top_k').value") == "0"


# ---- keys, focus, names ----

def test_by_keyboard_alone(tab):
    assert tab.focused() == "text"
    tab.type(STORY)
    tab.set("max_tokens", 6)
    tab.press("Enter", ctrl=True)
    tab.wait("document.querySelectorAll('.made .t').length > 0")
    tab.done()
    assert tab.focused() == "text"
    seen = []
    for _ in range(14):  # backwards through the page
        tab.press("Tab", shift=True)
        seen.append(tab.focused())
        width = tab.js("parseFloat(getComputedStyle(document.activeElement.matches('[name=mode]') "
                       "? document.activeElement.nextElementSibling : document.activeElement)"
                       ".outlineWidth)")
        assert width >= 2, seen
    assert {"made", "fork", "copy", "keys-open", "settings-open"} <= set(seen)
    tab.press("c")
    assert tab.js("document.querySelector('[name=mode]:checked').value") == "chat"
    tab.press("?")
    tab.wait("document.getElementById('keys').open")
    tab.press("Escape")
    tab.wait("!document.getElementById('keys').open")
    tab.press("p")
    tab.press("/")
    assert tab.focused() == "text"
    tab.press("n")  # in a field a letter is a letter
    assert tab.js("document.getElementById('text').value") == "n"


def test_everything_has_a_name(tab):
    tab.ask(STORY, max_tokens=3)
    tab.click("#fork")
    roles = {"button", "textbox", "spinbutton", "radio", "checkbox", "slider", "progressbar",
             "combobox", "link", "navigation", "region", "complementary", "group"}
    for node in tab.call("Accessibility.getFullAXTree")["nodes"]:
        if not node.get("ignored") and node.get("role", {}).get("value") in roles:
            assert node.get("name", {}).get("value"), node


CONTRAST = """(() => {
  const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (c) => { probe.clearRect(0, 0, 1, 1); probe.fillStyle = c;
    probe.fillRect(0, 0, 1, 1); return [...probe.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; }
    return rgba('#fff'); };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || e.closest('.hidden, :disabled')) continue;
    const a = light(rgba(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(e.outerHTML.slice(0, 80) + ' ' + ratio.toFixed(2));
  }
  return low;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(tab, scheme):
    tab.prefer(scheme)
    tab.set("tint", True)
    tab.ask(STORY, max_tokens=200, seed=7)
    tab.click("#fork")
    tab.js("document.querySelector('#set-top_p').value = 7; "
           "document.querySelector('#set-top_p').dispatchEvent(new Event('input'))")
    tab.send(" x")
    tab.hover(".made .t:nth-child(5)")
    tab.wait("!document.getElementById('alternatives').hidden")
    assert tab.count(".p4") > 0 and tab.visible("#problem")
    assert tab.js(CONTRAST) == []
    tab.js("document.getElementById('keys').showModal()")
    assert tab.js(CONTRAST) == []


def test_listeners_are_not_flooded(tab):
    tab.js("window.spoken = []; new MutationObserver(() => spoken.push(document.getElementById("
           "'said').textContent)).observe(document.getElementById('said'), {childList: true, "
           "characterData: true, subtree: true})")
    assert tab.js("document.getElementById('said').getAttribute('role')") == "status"
    tab.ask(STORY, max_tokens=150, seed=7)
    spoken = tab.js("spoken")
    assert 2 <= len(spoken) <= 8 and "150 tokens" in spoken[-1]
    assert tab.count("#log[aria-live], #log [aria-live]") == 0


# ---- light and dark ----

def test_light_and_dark(tab):
    ground = "getComputedStyle(document.body).backgroundColor"
    tab.prefer("light")
    light = tab.js(ground)
    tab.prefer("dark")
    dark = tab.js(ground)
    assert light != dark
    tab.click("#theme")
    assert tab.js(ground) == light and "light" in tab.text("#theme")
    tab.open()
    assert tab.js(ground) == light, "the choice is kept"
    tab.click("#theme")
    tab.prefer("light")
    assert tab.js(ground) == dark
    tab.click("#theme")
    assert tab.js(ground) == light and "auto" in tab.text("#theme")
    tab.prefer("dark")
    tab.ask(STORY, max_tokens=120, seed=7)
    tab.set("tint", True)
    tab.hover(".made .t:nth-child(12)")
    tab.wait("!document.getElementById('alternatives').hidden")
    tab.shot("dark")


# ---- narrow ----

def overflow(tab):
    return tab.js("[document.documentElement.scrollWidth - innerWidth, ...['#log', '#settings', "
                  "'#keys', '#composer', '.bar'].map(s => document.querySelector(s)).filter(e => "
                  "e.checkVisibility()).map(e => e.scrollWidth - e.clientWidth)]"
                  ".every(n => n <= 0)")


def test_narrow(visit, server):
    tab = visit(server, width=360, height=740).open()
    assert overflow(tab) and not tab.visible("#settings")
    tab.ask("word" * 60 + " " + STORY, max_tokens=60, seed=7)
    tab.click("#fork")
    assert overflow(tab) and tab.visible("#copy") and tab.visible("#text")
    tab.shot("narrow")
    tab.hover(".made .t:nth-child(3)")
    tab.wait("!document.getElementById('alternatives').hidden")
    assert tab.js("(r => r.left >= 0 && r.right <= innerWidth)(document.getElementById("
                  "'alternatives').getBoundingClientRect())")
    tab.click("#settings-open")
    assert tab.visible("#settings") and overflow(tab)
    tab.click("#settings-close")
    assert not tab.visible("#settings") and tab.focused() == "settings-open"
    tab.click("#keys-open")
    assert overflow(tab)


# ---- what comes from outside is text ----

HOSTILE = [
    "<script>hacked=1</script>", "<img src=x onerror=hacked=1>", "</span></div>", "&lt;b&gt;",
    "\u202egnorts\u202c ", "\u05e9\u05dc\u05d5\u05dd ", "Z\u0351\u0363" * 40, "w" * 4000,
    "\u0000\u0007", "<style>*{display:none}</style>", "javascript:hacked=1 ", "${hacked=1}"]


@pytest.mark.parametrize("width", [360, 1280])
def test_hostile_text_is_inert(visit, server, width):
    tab = visit(server, width=width).open()
    tab.intercept("*/generate", lambda r: ndjson(HOSTILE))
    tab.ask("<script>hacked=1</script>\u202e" + "v" * 3000)
    assert tab.text(".made") == "".join(HOSTILE)
    assert tab.count("#log script, #log img, #log style, #log b, #log a") == 0
    assert tab.js("typeof hacked") == "undefined" and overflow(tab)
    tab.hover(".made .t:nth-child(2)")
    tab.wait("!document.getElementById('alternatives').hidden")
    assert tab.count("#alternatives b") == 0 and "<b>x</b>" in tab.text("#alternatives")
    assert tab.visible("#copy") and tab.js(
        "getComputedStyle(document.querySelector('.made')).unicodeBidi") == "isolate"


def test_markup_cannot_act(tab):
    """Even if some of it became markup: the policy holds."""
    tab.expected = ["ContentSecurityPolicy", "TrustedHTML", "TrustedScript",
                    "Content Security Policy"]
    tab.js("window.held = []; addEventListener('securitypolicyviolation', "
           "e => held.push(e.effectiveDirective))")
    assert tab.js("(() => { try { document.body.innerHTML = '<p>'; return 'set'; } "
                  "catch (e) { return e.name; } })()") == "TypeError"
    away = "http://127.0.0.1:1/x"
    tab.js("document.body.append(Object.assign(document.createElement('img'), {src: '%s'}), "
           "Object.assign(document.createElement('script'), {}))" % away)
    tab.js("document.body.lastChild.append('hacked = 1')")
    tab.js("(p => { p.setAttribute('style', 'color: red'); })(document.body)")
    assert tab.js("fetch('%s').then(() => 'went', () => 'held')" % away) == "held"
    tab.wait("held.length >= 4")
    assert tab.js("typeof hacked") == "undefined"
    seen = set(tab.js("held"))
    assert {"require-trusted-types-for", "img-src", "connect-src", "style-src-attr"} <= seen
    tab.page.requests[:] = [r for r in tab.page.requests if r["url"] != away]  # asked, not sent


def test_a_very_long_answer(tab):
    tab.intercept("*/generate", lambda r: ndjson(["a "] * 11000))
    tab.ask(STORY)
    assert tab.js("document.querySelector('.made').textContent.length") == 22000
    assert tab.count(".made .t") == 10000 and "11,000" in tab.text("#figures")


# ---- when something is wrong ----

def test_while_the_model_loads(visit, server):
    tab = visit(server)
    tab.expected = ["503"]
    left = [2]

    def health(request):
        if left[0] == 0:
            return "go on"
        left[0] -= 1
        return 503, {"Content-Type": "application/json"}, '{"status":"loading","progress":0.4}'

    tab.intercept("*/health", health)
    tab.page.open(tab.address)
    tab.wait("document.getElementById('progress') && "
             "document.getElementById('progress').value === 0.4")
    assert "loading" in tab.text(".notice") and tab.visible("#text")
    tab.wait("!document.getElementById('loading') && document.title !== 'tnl'")
    tab.ask(STORY, max_tokens=3)


def test_server_out_of_reach(visit, server):
    tab = visit(server)
    tab.expected = ["ERR_CONNECTION_REFUSED"]
    left = [2]

    def health(request):
        left[0] -= 1
        return None if left[0] >= 0 else "go on"

    tab.intercept("*/health", health)
    tab.page.open(tab.address)
    tab.wait("!!document.getElementById('unreachable')")
    tab.wait("!document.getElementById('unreachable') && document.title !== 'tnl'")


@pytest.mark.parametrize("answer,says", [
    (refusal(503, "queue_full", **{"Retry-After": "7"}), "in 7 s"),
    (refusal(503, "draining"), "shutting down"), (refusal(429, "rate_limit"), "limit of this"),
    (refusal(400, "out_of_range", "Too large.", "max_tokens"), "max_tokens. Change it"),
    (refusal(400, "prompt_too_long"), "too long"), (refusal(403, "origin"), "Host header"),
    ((502, {"Content-Type": "text/html"}, "<h1>Bad gateway</h1>"), "failed (502)"),
    (None, "does not answer")])
def test_errors_in_words(tab, answer, says):
    tab.expected = ["status of", "ERR_CONNECTION_REFUSED"]
    answers = [answer]
    tab.intercept("*/generate", lambda r: answers.pop() if answers else ndjson(["fine"]))
    tab.ask(STORY)
    assert says in tab.text("#problem") and tab.visible("#problem[role=alert]")
    assert tab.js("document.getElementById('text').value") == STORY, "nothing is lost"
    assert tab.count(".made") == 0
    if tab.js("[...document.querySelectorAll('#problem button')].some(b => "
              "b.textContent === 'Try again')"):
        tab.click("#problem button")
    else:
        tab.click("#send")
    tab.wait("document.querySelectorAll('.made').length === 1 && "
             "!document.getElementById('send').hidden")
    assert tab.text(".made") == "fine" and tab.count("#problem") == 0


def test_an_answer_that_breaks_off(tab):
    whole = ndjson(["one", " two"])
    cut = (200, whole[1], "\n".join(whole[2].split("\n")[:2]) + "\n")
    tab.intercept("*/generate", lambda r: cut)
    tab.ask(STORY)
    assert "broke off" in tab.text("#problem") and tab.text(".made") == "one two"
    assert "broken off" in tab.text("#figures")
    failed = ndjson(["one"], finish_reason="error",
                    error={"message": "Memory is short.", "code": "out_of_memory"})
    tab.intercept("*/generate", lambda r: failed)
    tab.ask()
    assert "Memory is short." in tab.text("#problem")


def test_key(visit, start):
    s = start(env={"TNL_API_KEY": KEY}, ready=False)
    tab = visit(s)
    tab.expected = ["status of 401"]
    tab.page.open(tab.address)
    tab.wait("!!document.getElementById('api-key')")
    assert "API key" in tab.text("#key-form") and tab.focused() == "api-key"
    tab.type("not-the-right-key-at-all")
    tab.press("Enter")
    tab.wait("document.querySelector('#key-form')?.textContent.includes('not accepted')")
    tab.type(KEY)
    tab.press("Enter")
    tab.wait("document.title !== 'tnl'")
    assert tab.count("#key-form") == 0
    tab.ask(STORY, max_tokens=4)
    assert tab.count(".t") > 0
    assert tab.js("JSON.stringify(localStorage)").find(KEY) < 0
    assert tab.js("sessionStorage.getItem('tnl.key')") == KEY
    tab.open()  # the tab remembers
    assert tab.count("#key-form") == 0
    assert KEY not in tab.js("document.documentElement.outerHTML")


@pytest.mark.parametrize("path", ["/llm/here/", "/llm/here"])
def test_below_a_path(visit, start, path):
    tab = visit(start("--base-path", "/llm/here", ready=False), base="/llm/here/")
    tab.page.open(tab.address[:-len("/llm/here/")] + path)
    tab.page.requests[:] = [r for r in tab.page.requests if r["url"].startswith(tab.address)]
    tab.wait("document.title !== 'tnl'")
    tab.ask(STORY, max_tokens=4)
    tab.click("#fork")
    tab.ask(" x")
    assert tab.count(".made") == 2 and tab.count("#problem") == 0


def test_behind_a_proxy(visit, server, start, behind):
    """Two servers: the one that is asked next may not know the session."""
    tab = visit(behind("nginx", server, start())).open()
    tab.expected = ["status of 404"]
    go_on(tab)
    tab.send(STORY, max_tokens=100000)
    n = tab.wait("document.querySelectorAll('.t').length")
    tab.wait("document.querySelectorAll('.t').length > %d" % (n + 5))
    tab.press("Escape")
    tab.done()
    for text in [" But", " then", ""]:
        tab.ask(text, max_tokens=4)
    assert tab.count(".made") == 4 and tab.count("#problem") == 0


# ---- taking the text along ----

def test_copied_request_gives_the_same(tab, server):
    tab.js("window.copied = null; navigator.clipboard.writeText = async t => { copied = t; }")
    tab.ask("It's a \"test\"\n", max_tokens=6, seed=7)
    first = tab.text(".made")
    tab.ask("$HOME's `x`", max_tokens=6, temperature=0.5)
    tab.click("#copy-curl")
    words = shlex.split(tab.wait("copied"))
    assert words[:2] == ["curl", "-N"] and words[2] == tab.address + "generate"
    body = json.loads(words[words.index("-d") + 1])
    assert body["prompt"] == "It's a \"test\"\n" + first + "$HOME's `x`"
    got = server.generate(**{**body, "stream": False})["text"]
    assert got == tab.js("[...document.querySelectorAll('.made')].pop().textContent")


def test_save_and_copy(tab):
    tab.ask(STORY, max_tokens=6, seed=7)
    tab.js("window.saved = []; (f => { URL.createObjectURL = b => { saved.push(b); "
           "return f(b); }; })(URL.createObjectURL.bind(URL)); window.copied = null; "
           "navigator.clipboard.writeText = async t => { copied = t; }")
    tab.page.browser.call("Browser.setDownloadBehavior", {
        "behavior": "deny", "browserContextId": tab.page.context})
    tab.click("#save-text")
    tab.click("#save-json")
    tab.click("#copy")
    text, data = (tab.js("saved[%d].text()" % i) for i in (0, 1))
    assert text == tab.text("#log .words") == tab.js("copied")
    turns = json.loads(data)["turns"]
    assert turns[0] == {"role": "user", "text": STORY}
    assert turns[1]["settings"]["seed"] == "7" and len(turns[1]["tokens"]) == 6
    assert len(turns[1]["tokens"][0]["alternatives"]) == 5
