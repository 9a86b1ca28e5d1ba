# `./dev package`: a tarball and a .deb of programs that need no library of the machine, with checksums and a bill of
# materials. The same commit gives the same bytes wherever it is built.
# shellcheck shell=bash

PACKAGES=$CACHE/packages
VERSION=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
PACKAGED=(-p palatine-palatine -p palatine-hypercore)
# Where `./dev package try` finds programs, and where it unpacks the tarball.
BARE=$CACHE/path/bare
UNPACKED=''

package() {
    flags "$@"
    local profile=${ARGS[0]:-release}
    if [ "$profile" = try ]; then
        profile=dev
        need_root "make virtual machines' networks"
    fi
    need_space release
    prepare run build test
    devtool
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
    # The order of names is no matter of the builder's language.
    export SOURCE_DATE_EPOCH LC_ALL=C
    static "$profile"
    guests
    placeless "$ASSETS/pod" "$ASSETS/images/agent-echo/agent-echo"
    rm -rf "$PACKAGES" && mkdir -p "$PACKAGES"
    say "A bill of materials"
    "$DEVTOOL" sbom --version "$VERSION" --epoch "$SOURCE_DATE_EPOCH" --target "$TRIPLE" > "$PACKAGES/palatine-$VERSION.cdx.json"
    say "A tarball and a .deb"
    "$DEVTOOL" pack --programs "$STATIC" --assets "$ASSETS" --into "$PACKAGES" --version "$VERSION" \
        --epoch "$SOURCE_DATE_EPOCH"
    (cd "$PACKAGES" && sha256sum -- *.* > SHA256SUMS && cat SHA256SUMS)
    say "In $PACKAGES"
    [ "${ARGS[0]:-}" != try ] || try_package
}

# The main job by the tarball's programs, with a PATH of what the package depends on: no Rust, no compiler.
try_package() {
    local program id
    rm -rf "$BARE" && mkdir -p "$BARE"
    while IFS=$'\t' read -r program _; do
        link "$(found "$program")" "$BARE/$program"
    done < <(needs run)
    UNPACKED=$(mktemp -d)
    trap end_try EXIT
    tar -xzf "$PACKAGES"/palatine-*.tar.gz -C "$UNPACKED"
    say "The main job, without Rust"
    packaged up --detach --no-agent --listen 127.0.0.1:8098
    id=$(packaged spawn --type echo | sed -n '1s/ is ready.*//p')
    [ -n "$id" ] || fail "No agent is ready."
    packaged ask "$id" "are you there?" | grep "are you there?"
    packaged stop "$id"
    say "Works"
}

packaged() { env -i PATH="$BARE" HOME="$UNPACKED" PALATINE_STATE="$UNPACKED/state" "$UNPACKED"/palatine-*/bin/palatine "$@"; }

# However the trial ends, nothing of it stays. A stack that cannot be ended keeps its folder: `down` needs it.
end_try() {
    local status=$?
    if packaged down; then
        rm -rf "$UNPACKED"
    else
        echo "The stack in $UNPACKED/state was not ended." >&2
        status=1
    fi
    exit "$status"
}

# Linked without a library of the machine, and without its paths.
static() { # profile
    local words=() flags='"-C", "target-feature=+crt-static"' pair wanted
    while read -r pair; do
        flags+=", \"--remap-path-prefix=$pair\""
        words+=("-ffile-prefix-map=$pair")
    done < <(replaced)
    say "Building palatine and hypercore, static ($1)"
    CFLAGS="${words[*]}" cargo build --locked --profile "$1" --target "$TRIPLE" --target-dir "$CACHE/static" \
        --config "build.rustflags=[$flags]" "${PACKAGED[@]}" --bins || fail "The static programs could not be built."
    [ "$1" = dev ] && set -- debug
    STATIC=$CACHE/static/$TRIPLE/$1
    wanted=$(readelf -d "$STATIC/palatine" "$STATIC/hypercore") || fail "The programs cannot be looked into."
    [[ $wanted != *NEEDED* ]] || fail "The programs still want the machine's libraries."
    # What a trial's debugger reads stays in the cache, and is named there.
    [ "$1" = debug ] || placeless "$STATIC/palatine" "$STATIC/hypercore"
}
