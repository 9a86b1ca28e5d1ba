# `./dev pictures`: what README shows, from a real run and from the bench's latest figures.
# shellcheck shell=bash

PICTURES=docs/pictures

pictures() {
    flags "$@"
    need_root "make virtual machines' networks"
    prepare run build test
    devtool
    mkdir -p $PICTURES
    "$DEVTOOL" figures bench/results/latest.json $PICTURES/bench.svg
    programs release
    guests
    PALATINE_STATE=$(mktemp -d)
    export PALATINE_STATE
    trap 'palatine down; rm -rf "$PALATINE_STATE"' EXIT
    palatine up --detach --no-agent --listen 127.0.0.1:8099 --assets "$ASSETS" >&2
    session | "$DEVTOOL" terminal $PICTURES/terminal.svg
    say "In $PICTURES, and README's table of figures"
}

# A whole life of an agent, as it stands on a terminal.
session() {
    local said id
    said=$(typed spawn --type echo)
    printf '%s\n' "$said"
    id=$(sed -n '2s/ is ready.*//p' <<<"$said")
    [ -n "$id" ] || fail "No agent is ready: $said"
    typed ask "$id" "are you there?"
    typed stop "$id"
    typed rm "$id"
}

# One command and all that it says.
typed() {
    local words=("$@") word
    for word in "${!words[@]}"; do
        [[ ${words[word]} != *' '* ]] || words[word]="\"${words[word]}\""
    done
    printf '\e[32m$\e[0m \e[1mpalatine %s\e[0m\n' "${words[*]}"
    palatine "$@" 2>&1
}
