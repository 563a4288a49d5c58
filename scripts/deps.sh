# Sourced by scripts/run and scripts/test: installs the Debian packages that are missing.
#
# A package is missing when its probe fails, so a machine that has the tools from elsewhere needs
# neither apt nor root.

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 69; }

has() { command -v "$1" >/dev/null 2>&1; }
lib() { has pkg-config && pkg-config --exists "$1" >/dev/null 2>&1; }
header() { printf '#include <%s>\n' "$1" | cc -fsyntax-only -xc - >/dev/null 2>&1; }

# The Python that has the tests' modules: the one in front on PATH, or Debian's beside it.
python_module() { [ -n "$(python_with "$1")" ]; }
python_with() {
    local py
    for py in python3 /usr/bin/python3; do
        if has "$py" && "$py" -c "import $1" >/dev/null 2>&1; then
            printf '%s\n' "$py"
            return
        fi
    done
}

# package: probe
declare -A PROBE=(
    [gcc]='has cc'
    [g++]='has c++'
    [libc6-dev]='header stdio.h'
    [meson]='has meson'
    [ninja-build]='has ninja'
    [pkg-config]='has pkg-config'
    [libmicrohttpd-dev]='lib libmicrohttpd'
    [libcjson-dev]='lib libcjson || header cjson/cJSON.h'
    [libsentencepiece-dev]='lib sentencepiece'
    [libcurl4-openssl-dev]='lib libcurl'
    [libedit-dev]='lib libedit'
    [libgnutls28-dev]='lib gnutls'
    [libcmocka-dev]='lib cmocka'
    [clang]='has clang'
    [clang-format]='has clang-format'
    [binutils]='has nm'
    [python3]='has python3'
    [python3-venv]='python_module ensurepip'
    [python3-pytest]='python_module pytest'
    [python3-numpy]='python_module numpy'
    [openssl]='has openssl'
    [python3-yaml]='python_module yaml'
    [nginx-light]='has nginx || has /usr/sbin/nginx'
    [caddy]='has caddy'
    [haproxy]='has haproxy || has /usr/sbin/haproxy'
    [chromium-headless-shell]='has chromium-headless-shell || has chromium || has google-chrome'
)
BUILD_PACKAGES=(gcc g++ libc6-dev meson ninja-build pkg-config libmicrohttpd-dev libcjson-dev
    libsentencepiece-dev libcurl4-openssl-dev libedit-dev libgnutls28-dev)
TEST_PACKAGES=(libcmocka-dev clang clang-format binutils python3 python3-venv python3-pytest
    python3-numpy python3-yaml nginx-light caddy haproxy openssl)
PAGE_PACKAGES=(chromium-headless-shell) # large: installed when its stage is run

missing_packages() {
    local p
    for p in "$@"; do
        eval "${PROBE[$p]}" || printf '%s\n' "$p"
    done
}

# install_missing PACKAGE...: says what it installs; does nothing when all are there.
install_missing() {
    local -a missing root=()
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    has apt-get || die "missing: ${missing[*]} (no apt-get here: install them by other means)"
    if [ "$(id -u)" != 0 ]; then
        has sudo || die "missing: ${missing[*]}; run as root: apt-get install ${missing[*]}"
        root=(sudo)
    fi
    say "installing with apt: ${missing[*]}"
    apt_install "${missing[@]}" || {
        "${root[@]}" apt-get update -qq
        apt_install "${missing[@]}"
    }
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]} == 0)) || die "still missing after the installation: ${missing[*]}"
}

# Offline: a proxy that the tests need must not begin to serve this machine.
apt_install() {
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
