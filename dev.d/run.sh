# A run of checks: its steps, one after the other, and a last line that counts what they did.
# shellcheck shell=bash

RUN=$CACHE/run
NEXTEST_CONFIG=$RUN/nextest.toml
DEVTOOL=$TARGET/debug/devtool
PROFILE=default
WHOLE=()
# Whether the run's folder is this run's already, and the step under way.
BEGUN='' STEP='' STEP_SINCE=0

devtool() {
    cargo build --locked --quiet -p devtool || fail "devtool could not be built. Is there a network?"
}

# The promise of a run, made before anything can go wrong: its last line is a count, whatever ends it.
promise() {
    trap 'finish $?' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# One run at a time: they share the run's folder, the cache and the machine. A run that is part of another has its lock.
alone() {
    [ -z "${PALATINE_DEV_ALONE:-}" ] || return 0
    mkdir -p "$CACHE"
    exec 9>>"$CACHE/run.lock"
    flock --nonblock 9 || fail "Another ./dev test, soak, lint or fuzz uses $CACHE: wait for its end, or set PALATINE_CACHE."
    export PALATINE_DEV_ALONE=yes
}

# Starts a run: its folder, and what this machine has.
begin() {
    devtool
    rm -rf "$RUN" && mkdir -p "$RUN"
    : > "$RUN/steps"
    BEGUN=yes
    # What nextest writes down goes into the run's folder, not into the checkout.
    { printf '[store]\ndir = "%s"\n\n' "$RUN/nextest" && cat .config/nextest.toml; } > "$NEXTEST_CONFIG"
    say "What this machine has of what tests need"
    "$DEVTOOL" probe "$RUN/facts" >&2
    export PALATINE_FACTS=$RUN/facts PALATINE_SKIPS=$RUN/skips PALATINE_ASSETS=$ASSETS PALATINE_BIN=$TARGET/debug
}

# One step; those after it run whether or not it ends well.
step() { # name, command…
    local status=0
    STEP=$1 STEP_SINCE=$SECONDS
    shift
    say "${STEP^}"
    # What a step leaves running must not hold the lock of the run.
    "$@" 9>&- || status=$?
    record "$status"
}

# Writes down how the step under way ended.
record() { # exit status
    printf '%s\t%s\t%s\n' "${STEP:-setup}" "$1" $((SECONDS - STEP_SINCE)) >> "$RUN/steps"
    STEP=''
}

# Builds all tests, and writes down which there are.
list_tests() { nextest list --message-format json "${ARGS[@]}" > "$RUN/tests.json"; }

nextest() { # verb, words…
    local verb=$1
    shift
    cargo nextest "$verb" --config-file "$NEXTEST_CONFIG" --locked --workspace "$@"
}

# The end of a run, however it came: the step that it ended in has failed, and what failed outside of one is a failure
# more.
finish() { # exit status
    local status=$1 counted=0
    trap - EXIT
    trap '' HUP INT TERM
    if [ -z "$BEGUN" ]; then
        echo "0 passed, 1 failed, 0 skipped"
        exit $((status == 0 ? 1 : status))
    fi
    [[ $status = 0 && -z $STEP ]] || record $((status == 0 ? 1 : status))
    "$DEVTOOL" report "$RUN" --junit "$RUN/nextest/$PROFILE/junit.xml" "${WHOLE[@]}" || counted=$?
    # It says a count whatever it met, unless it died.
    [ "$counted" -le 1 ] || echo "0 passed, 1 failed, 0 skipped"
    exit $((status == 0 ? counted : status))
}
