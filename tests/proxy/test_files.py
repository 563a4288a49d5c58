"""The other files of configs/, as far as that is possible without systemd, Docker, Kubernetes and
Grafana: what they name must exist, what they run must run."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading

import pytest

from harness import BIN, ROOT, Raw, wait_until
from proxies import free_port

CONFIGS = os.path.join(ROOT, "configs")
KEY = "a-key-for-the-tests-0123456789"


def text_of(name):
    with open(os.path.join(CONFIGS, name)) as f:
        return f.read()


@pytest.fixture(scope="module")
def options():
    """TNL_* variables and default values, from --help."""
    text = subprocess.run([BIN, "serve", "--help"], capture_output=True, text=True).stdout
    flags = re.findall(r"^ +(?:-\w, )?--([a-z-]+)", text, re.M)
    assert "drain-seconds" in flags
    drain = re.search(r"--drain-seconds.*?\(default:? (\d+)", text, re.S) or \
        re.search(r"--drain-seconds[^\[]*\[(\d+)\]", text)
    return {"TNL_" + f.upper().replace("-", "_") for f in flags}, int(drain.group(1))


# ---- README.md ----

def test_readme_names_every_file():
    text = text_of("README.md")
    for name in os.listdir(CONFIGS):
        if name not in ("README.md", "meson.build", "Dockerfile.dockerignore"):
            assert "| `" + name in text, name


# ---- tnl.service ----

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


@pytest.fixture
def unit(tmp_path):
    text = text_of("tnl.service")
    assert "/usr/local/bin/tnl serve" in text
    path = tmp_path / "tnl.service"
    path.write_text(text.replace("/usr/local/bin/tnl", BIN))
    return str(path)


@needs_systemd
def test_unit_is_understood(unit):
    p = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (p.returncode, p.stderr) == (0, "")


@needs_systemd
def test_unit_is_closed(unit):
    p = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager",
                        "--threshold=15", unit], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-300:] + p.stderr


def test_unit_fits_the_server(options):
    names, drain = options
    text = text_of("tnl.service")
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M).group(1))
    assert stop > drain + 2
    assert set(re.findall(r"TNL_[A-Z_]+", text)) <= names
    mine = "\n".join(line for line in text.splitlines() if "systemctl" not in line)
    for flag in re.findall(r"--[a-z][a-z-]+", mine):
        assert "TNL_" + flag[2:].upper().replace("-", "_") in names, flag


@pytest.mark.skipif(not shutil.which("meson"), reason="no meson")
def test_installation(tmp_path):
    build = os.path.dirname(BIN)
    subprocess.run(["meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", tmp_path],
                   check=True, capture_output=True)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    unit = [p for p in found if p.endswith("/lib/systemd/system/tnl.service")]
    assert len(unit) == 1
    binary = re.search(r"^ExecStart=(\S+)", (tmp_path / unit[0]).read_text(), re.M).group(1)
    assert binary.lstrip("/") in found and os.access(str(tmp_path) + binary, os.X_OK)
    examples = {os.path.basename(p) for p in found if "/share/doc/tnl/examples/" in p}
    shipped = {n for n in os.listdir(CONFIGS) if os.path.isfile(os.path.join(CONFIGS, n))}
    assert examples == shipped - {"meson.build", "Dockerfile.dockerignore", "tnl.service"}


# ---- Dockerfile ----

def docker_lines():
    """Instructions of the Dockerfile with their continuation lines joined."""
    text = re.sub(r"^\s*#.*\n", "", text_of("Dockerfile"), flags=re.M)
    text = re.sub(r"\\\n", " ", text)
    return [line.split(None, 1) for line in text.splitlines() if line.strip()]


def packages(run):
    words = re.search(r"--no-install-recommends (.*?) &&", run).group(1).split()
    return {w for w in words if w}


def test_dockerfile_builds_with_what_we_need():
    runs = [rest for word, rest in docker_lines() if word == "RUN"]
    with open(os.path.join(ROOT, "scripts", "deps.sh")) as f:
        wanted = re.search(r"BUILD_PACKAGES=\((.*?)\)", f.read(), re.S).group(1).split()
    assert packages(runs[0]) >= set(wanted)


@pytest.mark.skipif(not shutil.which("dpkg") or not shutil.which("objdump"), reason="not Debian")
def test_dockerfile_runs_with_what_we_need():
    """The packages of the second stage are those of the binary's libraries."""
    shown = subprocess.run(["objdump", "-p", BIN], capture_output=True, text=True).stdout
    needed = set(re.findall(r"NEEDED +(\S+)", shown))
    places = dict(re.findall(r"(\S+) => (\S+)", subprocess.run(
        ["ldd", BIN], capture_output=True, text=True).stdout))
    paths = [f(places[name]) for name in needed & set(places) for f in (str, os.path.realpath)]
    p = subprocess.run(["dpkg", "-S", *paths], capture_output=True, text=True)
    owners = {line.split(":")[0] for line in p.stdout.splitlines()}
    runs = [rest for word, rest in docker_lines() if word == "RUN"]
    of_the_image = {"libc6", "libstdc++6", "libgcc-s1"}
    sanitizers = {"libasan8", "libubsan1", "libtsan2"}
    assert packages(runs[-1]) == owners - of_the_image - sanitizers


def test_dockerfile_is_careful(options):
    lines = docker_lines()
    last = dict(lines[max(i for i, (word, _) in enumerate(lines) if word == "FROM"):])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"]) and last["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(last["ENTRYPOINT"]) == ["tnl"] and json.loads(last["CMD"])[0] == "serve"
    env = dict(pair.split("=") for pair in last["ENV"].split())
    assert set(env) <= options[0] and env["TNL_PORT"] == last["EXPOSE"]
    # without a key it refuses to listen on all addresses
    p = subprocess.run([BIN, "serve", CONFIGS + "/tales"], capture_output=True, timeout=60,
                       env={**os.environ, **env, "TNL_PORT": "0"})
    assert p.returncode == 2 and b"key" in p.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_health_check(pair):
    rest = dict(docker_lines())["HEALTHCHECK"]
    command = json.loads(rest[rest.index("CMD") + 3:])

    def healthy(port):
        env = {**os.environ, "TNL_PORT": str(port)}
        return subprocess.run(command, capture_output=True, timeout=60, env=env).returncode == 0

    assert healthy(pair.servers[0].port)
    assert not healthy(free_port())
    with socket.create_server(("127.0.0.1", 0)) as loading:
        def answer():
            with loading.accept()[0] as c:
                c.recv(4096)
                c.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

        t = threading.Thread(target=answer)
        t.start()
        assert not healthy(loading.getsockname()[1])
        t.join()


# ---- kubernetes.yaml ----

@pytest.fixture(scope="module")
def objects():
    yaml = pytest.importorskip("yaml")
    found = {o["kind"]: o for o in yaml.safe_load_all(text_of("kubernetes.yaml"))}
    assert set(found) == {"Deployment", "Service", "PodDisruptionBudget"}
    return found


def test_kubernetes_hangs_together(objects):
    template = objects["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    box = template["spec"]["containers"][0]
    ports = {p["name"]: p["containerPort"] for p in box["ports"]}
    assert str(ports["http"]) == dict(docker_lines())["EXPOSE"]
    assert {p["targetPort"] for p in objects["Service"]["spec"]["ports"]} <= set(ports)
    assert {m["name"] for m in box["volumeMounts"]} == {v["name"] for v in template["spec"]["volumes"]}
    user = dict(docker_lines())["USER"].split(":")
    context = template["spec"]["securityContext"]
    assert [str(context["runAsUser"]), str(context["runAsGroup"])] == user
    assert context["runAsNonRoot"] and box["securityContext"]["readOnlyRootFilesystem"]
    assert box["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_kubernetes_leaves_time(objects, options):
    names, drain = options
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    box = pod["containers"][0]
    env = {e["name"]: e.get("value") for e in box["env"]}
    assert set(env) <= names | {"TNL_API_KEY"}
    pause = int(box["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = int(env.get("TNL_DRAIN_SECONDS", drain))
    assert pod["terminationGracePeriodSeconds"] > pause + drain + 2


def test_kubernetes_probes(objects, start):
    """A pod as the file starts it answers the kubelet, who has no key and asks by address."""
    box = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    env = {e["name"]: e["value"] for e in box["env"] if "value" in e}
    s = start("--host", "0.0.0.0", env={**env, "TNL_API_KEY": KEY}, ready=False)
    s.headers = {"Authorization": "Bearer " + KEY}

    def status(path, host):
        with Raw(s.port) as c:
            c.request(["GET %s HTTP/1.1" % path, "Host: " + host])
            return c.reply().status

    for probe in "startupProbe", "readinessProbe", "livenessProbe":
        path = box[probe]["httpGet"]["path"]
        wait_until(lambda: status(path, "10.1.2.3:8080") == 200, probe)
        assert box[probe]["httpGet"]["port"] in [p["name"] for p in box["ports"]]
    names = env["TNL_ALLOWED_HOST"].split(",")
    assert [status("/health", n) for n in names] == [200] * 4
    assert status("/health", "evil.example") == 403 and status("/metrics", "tnl") == 401


# ---- grafana.json ----

WORDS = set("""sum by rate min max increase histogram_quantile le code phase result finish_reason
instance key""".split())


def test_dashboard(start):
    board = json.loads(text_of("grafana.json"))
    panels = board["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    s = start(env={"TNL_API_KEY": "alice %s admin" % KEY}, ready=False)
    s.headers = {"Authorization": "Bearer " + KEY}
    wait_until(lambda: s.get("/ready").status == 200, "it is ready")
    s.post("/generate", {"prompt": 1})  # an error to count
    known = {}
    for line in s.get("/metrics").body.decode().splitlines():
        if line[0] != "#":
            m = re.match(r"([a-z0-9_:]+)(?:\{(.*)\})? ", line)
            known.setdefault(m.group(1), set()).update(re.findall(r'(\w+)="', m.group(2) or ""))
    for p in panels:
        assert p["description"] and p["fieldConfig"]["defaults"]["unit"]
        for t in p["targets"]:
            plain = re.sub(r"\{.*?\}|\[.*?\]", " ", t["expr"])
            names = set(re.findall(r"[a-z_:]{2,}", plain)) - WORDS
            assert names and names <= set(known), (p["title"], names - set(known))
            # labels to group by are there, and a rate is only taken of what only grows
            for by in re.findall(r"by \((\w+)\)", t["expr"]):
                assert any(by in known[n] for n in names) or by == "le"
            for grows in re.findall(r"(?:rate|increase)\((\w+)", t["expr"]):
                assert re.search(r"_(total|bucket|sum|count)$", grows), grows
            for label in re.findall(r"\{\{(\w+)\}\}", t["legendFormat"]):
                assert label == "instance" or "by (%s)" % label in t["expr"]
        box = p["gridPos"]
        assert 0 <= box["x"] and box["x"] + box["w"] <= 24
