# shellcheck shell=sh
# All set-up, in one place. Sourced by the other scripts, which set `root` to the checkout and then call
#
#   varmenne_setup run      enough for the demo
#   varmenne_setup test     all that the tests and the checks need, too
#
# On a machine that is ready it takes a fraction of a second and changes nothing. Otherwise it installs the system
# packages that are missing (as root, or through sudo; else it says which and stops), makes the virtual environment
# `.venv` in the checkout, and puts the locked dependencies and the package itself into it.
#
# Nothing outside the checkout changes but system packages. pip and apt keep the settings that they have: indexes,
# proxies and certificate bundles are neither set nor replaced here. Words go to stderr, so stdout stays for data.
#
# PYTHON=python3.12 chooses the interpreter; without it the first usable one is taken.

: "${root:?is set by the script that sources this}"

# --- System packages: one table. ------------------------------------------------------------------------------------

# Debian's name, from which level on it is needed, and what for. Python is not here: see varmenne_python.
varmenne_package_table() {
    cat <<'TABLE'
ca-certificates          run   the public certificate authorities, for pip
softhsm2                 run   a PKCS#11 token in software, for the demo and the tests
chromium                 test  opens the audit report as people do, and prints it
curl                     test  a stranger's SOAP client
dbus-daemon              test  the bus between a software TPM's parts
gcc                      test  builds small PKCS#11 modules that misbehave
golang-go                test  a stranger's verifier of the audit log's notes and proofs
golang-golang-x-mod-dev  test  its packages sumdb/note and sumdb/tlog
jq                       test  takes a hook's facts apart, in the documentation's examples
libc6-dev                test  the headers for gcc
libnss3                  test  a PKCS#11 module that gives keys away under perfect flags
libnss3-tools            test  makes that module's token
libtpm2-pkcs11-1         test  a PKCS#11 module that cannot do all that we order
libtpm2-pkcs11-tools     test  makes that module's token
libtss2-tcti-tabrmd0     test  the way from that module to the TPM's resource manager
openssl                  test  reads what was stored, as others will
p11-kit                  test  a PKCS#11 module behind a socket
p11-kit-modules          test  the client side of it
postgresql               test  the journal of several hosts; the tests start servers of their own
shellcheck               test  checks these scripts
systemd                  test  checks the units for a host
swtpm                    test  a TPM in software
tpm2-abrmd               test  its resource manager
xmlsec1                  test  a second opinion on XML signatures
TABLE
}

varmenne_say() { printf 'varmenne: %s\n' "$*" >&2; }

varmenne_die() {
    varmenne_say "$*"
    exit 1
}

# Prints the names of the packages of a level that are not installed.
varmenne_missing_packages() (
    wanted=$(varmenne_package_table | awk -v level="$1" '$2 == "run" || $2 == level { print $1 }')
    command -v dpkg-query >/dev/null || { echo "$wanted"; exit 0; }
    # shellcheck disable=SC2086 # one word per package
    installed=$(dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\n' $wanted 2>/dev/null |
        awk '$1 ~ /^.i/ { print $2 }') || true
    for name in $wanted; do
        echo "$installed" | grep -qxF "$name" || echo "$name"
    done
)

# Prints the usable Python that comes first: PYTHON if it is set, else python3, else a versioned one, else Debian's.
varmenne_python() (
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 /usr/bin/python3}; do
        path=$(command -v "$candidate") || continue
        # It must say so itself: a stub may exit with 0.
        usable=$("$path" -I -c '
import ensurepip, sqlite3, ssl, sys, venv
print((3, 11) <= sys.version_info < (3, 14))' 2>/dev/null </dev/null) || continue
        [ "$usable" = True ] || continue
        echo "$path"
        exit 0
    done
    exit 1
)

# apt-get as root, quietly, waiting for other users of dpkg. sudo drops the proxy variables, so they are named again.
varmenne_apt() (
    set -- env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
        apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@"
    if [ "$(id -u)" -ne 0 ]; then
        for name in http_proxy https_proxy ftp_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
            eval "value=\${$name-}"
            # shellcheck disable=SC2154 # set by eval
            [ -z "$value" ] || { shift; set -- env "$name=$value" "$@"; }
        done
        set -- sudo "$@"
    fi
    "$@" </dev/null 9<&-
)

varmenne_apt_install() { varmenne_apt install -y --no-install-recommends --no-remove "$@"; }

# The lists have a lock of their own, for which apt-get does not wait.
varmenne_apt_update() (
    tries=40
    until said=$(varmenne_apt update 2>&1); do
        tries=$((tries - 1))
        echo "$said"
        case $said in *"Could not get lock"*) [ "$tries" -gt 0 ] || exit 1 ;; *) exit 1 ;; esac
        sleep 15
    done
)

varmenne_may_sudo() {
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null && return 0
    [ -t 0 ] && [ -t 2 ] || return 1
    varmenne_say "sudo may ask for your password, to install: $*"
    sudo -v
}

# Installs packages, or says which to install and stops.
varmenne_install_packages() (
    if ! command -v apt-get >/dev/null; then
        varmenne_die "this is not Debian; install what these packages of Debian hold, and run this again: $*"
    fi
    if [ "$(id -u)" -ne 0 ] && ! varmenne_may_sudo "$@"; then
        varmenne_say "system packages are missing, and this user cannot install them. As root, run:"
        printf '\n    apt-get update\n    apt-get install --no-install-recommends %s\n\n' "$*" >&2
        varmenne_die "then run this again."
    fi
    varmenne_say "installing system packages: $*"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    varmenne_apt_install "$@" >"$log" 2>&1 && exit 0
    # The lists may be absent or old; they are fetched only when the first try shows it.
    varmenne_apt_update >"$log" 2>&1 && varmenne_apt_install "$@" >"$log" 2>&1 && exit 0
    cat "$log" >&2
    varmenne_die "apt-get could not install: $*"
)

# --- The virtual environment. ---------------------------------------------------------------------------------------

# What a level's environment was made from; a checkout that was moved needs a new one.
varmenne_key() { { echo "$root"; cat "$root/requirements/$1.txt"; } | sha256sum; }

varmenne_project_key() { sha256sum <"$root/pyproject.toml"; }

# True when the stamp NAME holds KEY. Stamps are written last, so an interrupted set-up leaves none.
varmenne_stamped() { [ "$(cat "$root/.venv/.made-$1" 2>/dev/null)" = "$2" ]; }

varmenne_stamp() {
    echo "$2" >"$root/.venv/.made-$1.new"
    mv "$root/.venv/.made-$1.new" "$root/.venv/.made-$1"
}

# True when the environment's interpreter runs, is the version it was made with, and is the one that PYTHON asks for.
varmenne_venv_runs() (
    version='import sys; print("%d.%d" % sys.version_info[:2])'
    found=$("$root/.venv/bin/python" -I -c "$version" 2>/dev/null </dev/null) || exit 1
    [ -d "$root/.venv/lib/python$found" ] || exit 1
    [ -z "${PYTHON:-}" ] || [ "$found" = "$("$PYTHON" -I -c "$version" 2>/dev/null)" ]
)

varmenne_dependencies_ready() {
    varmenne_stamped test "$(varmenne_key test)" ||
        { [ "$1" = run ] && varmenne_stamped run "$(varmenne_key run)"; }
}

varmenne_venv_ready() {
    varmenne_venv_runs && varmenne_dependencies_ready "$1" && varmenne_stamped project "$(varmenne_project_key)"
}

# pip in the environment. Its output is shown only when it fails.
varmenne_pip() (
    # Where packages land, and which are hashed, are our promises; everything else about pip is the user's.
    unset PIP_TARGET PIP_PREFIX PIP_ROOT
    export PIP_USER=0 PIP_REQUIRE_HASHES=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
    # Older pips do not read SSL_CERT_FILE. A `cert` in pip's own settings still goes before this.
    REQUESTS_CA_BUNDLE=${REQUESTS_CA_BUNDLE:-${CURL_CA_BUNDLE:-${SSL_CERT_FILE:-}}}
    if [ -n "$REQUESTS_CA_BUNDLE" ]; then export REQUESTS_CA_BUNDLE; else unset REQUESTS_CA_BUNDLE; fi
    # Downloads stay in the checkout, so that a second try does not start over, unless the user keeps a cache elsewhere.
    if [ -z "${PIP_CACHE_DIR:-}${PIP_NO_CACHE_DIR:-}" ] &&
        ! "$root/.venv/bin/python" -I -m pip config list 2>/dev/null | grep -q 'cache-dir='; then
        mkdir -p "$root/.cache"
        echo '*' >"$root/.cache/.gitignore"
        export PIP_CACHE_DIR="$root/.cache/pip"
    fi
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # It keeps the lock, so that nobody makes .venv anew under a pip that outlived its script.
    "$root/.venv/bin/python" -I -m pip "$@" >"$log" 2>&1 </dev/null && exit 0
    cat "$log" >&2
    varmenne_die "pip failed (see above): pip $*"
)

varmenne_make_venv() {
    if ! { varmenne_venv_runs && varmenne_stamped run "$(varmenne_key run)"; }; then
        python=$(varmenne_python) || varmenne_die "no Python 3.11 to 3.13 with venv, ssl and sqlite3 was found"
        varmenne_say "making .venv with $("$python" -I -V) and locked dependencies (the first time this takes a minute)"
        rm -rf "$root/.venv"
        "$python" -I -m venv "$root/.venv" >&2
        varmenne_pip install --require-hashes -r "$root/requirements/run.txt"
        varmenne_stamp run "$(varmenne_key run)"
    fi
    if ! varmenne_dependencies_ready "$1"; then
        varmenne_say "adding the locked tools for tests and checks to .venv"
        varmenne_pip install --require-hashes -r "$root/requirements/test.txt"
        varmenne_stamp test "$(varmenne_key test)"
    fi
    # The build backend is among the locked dependencies, so this needs no network.
    varmenne_pip install --no-index --no-deps --no-build-isolation --editable "$root"
    varmenne_stamp project "$(varmenne_project_key)"
}

# True when this user can make .venv in the checkout, and pip its cache there.
varmenne_may_write() {
    for place in "$root" "$root/.venv" "$root/.cache"; do
        [ ! -e "$place" ] || [ -w "$place" ] || return 1
    done
}

varmenne_setup() {
    # Before anything is installed or removed: a checkout may be somebody else's.
    if ! varmenne_venv_ready "$1" && ! varmenne_may_write; then
        varmenne_die "the user $(id -un) may not write $root; make a checkout of your own, or let its owner run this first."
    fi
    missing=$(varmenne_missing_packages "$1")
    # Debian's Python is asked for only where no other will do.
    if ! varmenne_venv_runs && ! varmenne_python >/dev/null; then
        [ -z "${PYTHON:-}" ] || varmenne_die "PYTHON=$PYTHON is not a Python 3.11 to 3.13 with venv, ssl and sqlite3"
        missing="python3 python3-venv $missing"
    fi
    # shellcheck disable=SC2086 # one word per package
    [ -z "$missing" ] || varmenne_install_packages $missing

    varmenne_venv_ready "$1" && return 0
    # One set-up at a time in a checkout. The lock goes with this process, however it ends.
    exec 9<"$root"
    if ! flock -n 9; then
        varmenne_say "waiting for another set-up of this checkout"
        flock 9
    fi
    varmenne_venv_ready "$1" || varmenne_make_venv "$1"
    exec 9<&-
}
