# A run of checks: its steps, one after the other, and a last line that counts what they did.
# shellcheck shell=bash

RUN=$CACHE/run
NEXTEST_CONFIG=$RUN/nextest.toml
DEVTOOL=$TARGET/debug/devtool
PROFILE=default
WHOLE=()

devtool() {
    cargo build --locked --quiet -p devtool || fail "devtool could not be built. Is there a network?"
}

# Starts a run: its folder, what this machine has, and the promise that a count is its last line.
begin() {
    devtool
    rm -rf "$RUN" && mkdir -p "$RUN"
    : > "$RUN/steps"
    # What nextest writes down goes into the run's folder, not into the checkout.
    { printf '[store]\ndir = "%s"\n\n' "$RUN/nextest" && cat .config/nextest.toml; } > "$NEXTEST_CONFIG"
    say "What this machine has of what tests need"
    "$DEVTOOL" probe "$RUN/facts" >&2
    export PALATINE_FACTS=$RUN/facts PALATINE_SKIPS=$RUN/skips PALATINE_ASSETS=$ASSETS PALATINE_BIN=$TARGET/debug
    trap 'finish $?' EXIT
}

# One step; those after it run whether or not it ends well.
step() { # name, command…
    local name=$1 since=$SECONDS status=0
    shift
    say "${name^}"
    "$@" || status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - since)) >> "$RUN/steps"
}

# Builds all tests, and writes down which there are.
list_tests() { nextest list --message-format json "${ARGS[@]}" > "$RUN/tests.json"; }

nextest() { # verb, words…
    local verb=$1
    shift
    cargo nextest "$verb" --config-file "$NEXTEST_CONFIG" --locked --workspace "$@"
}

# The end of a run, however it came: what failed outside of a step is one failure more.
finish() { # exit status
    trap - EXIT
    [ "$1" = 0 ] || printf 'setup\t%s\t0\n' "$1" >> "$RUN/steps"
    "$DEVTOOL" report "$RUN" --junit "$RUN/nextest/$PROFILE/junit.xml" "${WHOLE[@]}"
    exit
}
