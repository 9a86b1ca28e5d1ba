# What must be there before anything runs: packages, room, tools, and a PATH of the declared programs alone.
# shellcheck shell=bash

# Where programs are looked for before they are linked into one folder.
SEARCHED="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin"

# Rows of dev.d/needs for these levels: program, package, why.
needs() {
    local program package level why
    while read -r program package level why; do
        [[ -n $program && $program != '#'* && " $* " == *" $level "* ]] && printf '%s\t%s\t%s\n' "$program" "$package" "$why"
    done < dev.d/needs
    return 0
}

missing() {
    local program package why
    while IFS=$'\t' read -r program package why; do
        found "$program" >/dev/null || printf '%s\t%s\t%s\n' "$program" "$package" "$why"
    done < <(needs "$@")
}

# Debian has a folder for each version of PostgreSQL, which may be installed meanwhile.
found() { PATH=$SEARCHED$(printf ':%s' /usr/lib/postgresql/*/bin) type -P "$1"; }

# Asks for what is missing and installs it; then nothing else is in reach.
prepare() { # levels…
    install_missing "$@"
    narrow "$@"
}

install_missing() { # levels…
    found cargo >/dev/null || fail "Rust is missing: install it from https://rustup.rs, then run this again."
    local rows packages answer program package why
    rows=$(missing "$@")
    [ -n "$rows" ] || return 0
    say "Missing on this machine:"
    while IFS=$'\t' read -r program package why; do
        printf '  %-20s from %-18s %s\n' "$program" "$package" "$why" >&2
    done <<<"$rows"
    packages=$(cut -f2 <<<"$rows" | sort -u)
    packages=${packages//$'\n'/ }
    found apt-get >/dev/null || fail "This is not Debian or Ubuntu: install the packages above by your own means, then run this again."
    if [ "$YES" != yes ]; then
        [ -t 0 ] || fail "Nothing was installed. Run it with --yes, or: apt-get install $packages"
        read -rp "Install $packages? [y/N] " answer
        [[ $answer == [yY]* ]] || fail "Nothing was installed. Later: apt-get install $packages"
    fi
    need_root "install packages"
    # shellcheck disable=SC2086
    (unstarted && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages) >/dev/null \
        || fail "apt-get could not install $packages. Is there a network? Nothing else was changed."
    rows=$(missing "$@")
    [ -z "$rows" ] || fail "Still missing after apt-get: ${rows//$'\t'/ }"
}

# Until this shell ends no package starts a service of its own (containerd, PostgreSQL): what we need of them we start
# ourselves. A machine that has a policy keeps it.
unstarted() {
    local policy=${PALATINE_POLICY:-/usr/sbin/policy-rc.d}
    [ ! -e "$policy" ] || return 0
    # shellcheck disable=SC2064
    trap "rm -f '$policy'" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
}

# Makes PATH one folder of links: to the declared programs of these levels, and to Rust's own without rustup's
# proxies, which would bring all of ~/.cargo/bin along.
narrow() { # levels…
    local dir=$CACHE/path/${!#} program sysroot
    local -A kept=()
    mkdir -p "$dir"
    while IFS=$'\t' read -r program _; do
        kept[$program]=$(found "$program" || true)
    done < <(needs "$@")
    # Version managers put scripts in its place that want a shell's whole PATH.
    if [ -n "${kept[python3]:-}" ]; then
        kept[python3]=$(PATH=$SEARCHED python3 -c 'import sys; print(sys.executable)')
        [[ -z ${kept[pip3]:-} || ! -x ${kept[python3]%/*}/pip3 ]] || kept[pip3]=${kept[python3]%/*}/pip3
    fi
    sysroot=$(PATH=$SEARCHED rustc --print sysroot)
    for program in "$sysroot"/bin/{cargo,rustc,rustdoc,cargo-fmt,rustfmt,cargo-clippy,clippy-driver} "$TOOLS"/bin/*; do
        [ ! -x "$program" ] || kept[${program##*/}]=$program
    done
    for program in "${!kept[@]}"; do
        [ -z "${kept[$program]}" ] || link "${kept[$program]}" "$dir/$program"
    done
    for program in "$dir"/*; do
        [[ -n ${kept[${program##*/}]:-} && -e $program ]] || rm -f "$program"
    done
    export PATH=$dir
}

# A program found through an earlier folder of links stays what that link means.
link() { [ "$1" -ef "$2" ] || ln -sfn "$1" "$2"; }

# The tools of dev.d/wheels.txt: fetched once, by hash, never compiled.
prebuilt() {
    local sum wheel
    sum=$(sha256sum dev.d/wheels.txt | cut -c1-16)
    if [ ! -e "$TOOLS/$sum" ]; then
        say "Fetching the tools of dev.d/wheels.txt"
        python3 -m pip --version >/dev/null 2>&1 || fail "$(found python3) has no pip: install python3-pip for it."
        rm -rf "$TOOLS" && mkdir -p "$TOOLS/wheels" "$TOOLS/bin"
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
            --dest "$TOOLS/wheels" --requirement dev.d/wheels.txt \
            || fail "pip could not fetch the tools of dev.d/wheels.txt. Is there a network? Nothing is compiled instead."
        for wheel in "$TOOLS"/wheels/*.whl; do
            python3 -m zipfile -e "$wheel" "$TOOLS/unpacked"
        done
        install -m 755 "$TOOLS"/unpacked/*.data/scripts/* "$TOOLS/bin/"
        rm -rf "$TOOLS/wheels" "$TOOLS/unpacked"
        touch "$TOOLS/$sum"
    fi
    for wheel in "$TOOLS"/bin/*; do
        link "$wheel" "$PATH/${wheel##*/}"
    done
}

# gVisor's program, which no distribution has: built from the modules of dev.d/runsc. Where it cannot be, the tests that
# need it are skipped, and named.
gvisor() {
    local go sum dir=$CACHE/gvisor
    go=$(found go) || return 0
    sum=$(sha256sum dev.d/runsc/go.sum | cut -c1-16)
    if [ ! -e "$dir/$sum" ]; then
        say "Building gVisor's runsc from dev.d/runsc (minutes, once)"
        mkdir -p "$dir"
        if ! env -C dev.d/runsc CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=local "$go" build -trimpath \
            -ldflags "-s -w" -o "$dir/runsc" gvisor.dev/gvisor/runsc; then
            say "runsc could not be built: is there a network, and Go as in dev.d/runsc/go.mod? Its tests are skipped"
            return 0
        fi
        touch "$dir/$sum"
    fi
    link "$dir/runsc" "$PATH/runsc"
}

# The promise of a run of checks, made before anything can go wrong: its last line is a count, whatever ends it. From
# its start on it is devtool's to keep.
promise() {
    trap 'uncounted $?' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

uncounted() { # exit status
    trap - EXIT
    trap '' HUP INT TERM
    echo "0 passed, 1 failed, 0 skipped"
    exit $(($1 == 0 ? 1 : $1))
}

# One run at a time: they share the run's folder, the cache and the machine. A run that is part of another has its lock.
# Whoever would wait for what another run builds, or fetch the same tools, is told so before.
alone() {
    [ -z "${PALATINE_DEV_ALONE:-}" ] || return 0
    mkdir -p "$CACHE"
    exec 9>>"$CACHE/run.lock"
    flock --nonblock 9 || fail "Another ./dev test, soak, lint or fuzz uses $CACHE: wait for its end, or set PALATINE_CACHE."
}

# Cargo takes what another checkout built for this one's, if only its sources are older: their times are all it looks
# at. But a built test holds the path of its checkout. So a cache that was another's last sees sources that are new.
own_cache() {
    local mark=$CACHE/checkout
    [ "$(cat "$mark" 2>/dev/null)" != "$PWD" ] || return 0
    [ ! -d "$TARGET" ] || find crates devtool images xtask -name '*.rs' -exec touch {} +
    mkdir -p "$CACHE"
    printf '%s' "$PWD" >"$mark"
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "Only root can $1: run this with sudo -E, so that your Rust stays in reach."
}

need_space() { # profile
    local free
    mkdir -p "$CACHE"
    free=$(df -Pm "$CACHE" | { read -r _; read -r _ _ _ free _; printf %s "$free"; })
    [ "$free" -ge "$MIN_FREE_MB" ] && return
    # A cache that is full already needs no more room.
    [ -x "$TARGET/$1/palatine" ] && [ "$free" -ge 1500 ] && return
    fail "$CACHE has $free MB left; builds and images need $MIN_FREE_MB. Free some, or set PALATINE_CACHE to a roomier disk."
}
