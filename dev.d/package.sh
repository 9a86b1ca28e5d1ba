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
    say "A tarball"
    tarball
    say "A .deb"
    debian
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

# What both packages hold, under a prefix: programs, what they find beside them, documents.
lay() { # root, prefix
    local to=$1/$2 file recipe
    install -d "$to/bin" "$to/lib" "$to/share/doc/palatine"
    install -m 755 "$STATIC/palatine" "$STATIC/hypercore" "$to/bin/"
    install -D -m 755 "$ASSETS/pod" "$to/lib/palatine/pod"
    for recipe in images/*/image.toml; do
        install -D -m 644 "$recipe" "$to/lib/palatine/$recipe"
    done
    install -m 755 "$ASSETS/images/agent-echo/agent-echo" "$to/lib/palatine/images/agent-echo/"
    lay_packages "$to/lib/palatine/solana" "$ASSETS/solana" deploy/dev/solana
    lay_packages "$to/lib/palatine/evm" "$ASSETS/evm" deploy/dev/evm
    for file in deploy/systemd/server.md docs/configuration.md README.md LICENSE "$PACKAGES/palatine-$VERSION.cdx.json"; do
        install -m 644 "$file" "$to/share/doc/palatine/"
    done
}

# Our files as the checkout has them, and what npm installed for just these: the cache may hold others' as well.
lay_packages() { # into, assets, folder of the checkout
    local file
    install -d "$1"
    while read -r file; do
        install -D -m 644 "$3/$file" "$1/$file"
    done < <(named_files "$3")
    cp -R "$2/node_modules" "$1/"
}

tarball() {
    local name=palatine-$VERSION-x86_64-linux work=$PACKAGES/work
    lay "$work" "$name"
    install -d "$work/$name/share/systemd"
    install -m 644 deploy/systemd/*.service "$work/$name/share/systemd/"
    even "$work"
    tar --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$work" -cf - "$name" \
        | gzip -6n > "$PACKAGES/$name.tar.gz"
    rm -rf "$work"
}

debian() {
    local work=$PACKAGES/work depends unit
    lay "$work" usr
    for unit in deploy/systemd/*.service; do
        install -d "$work/lib/systemd/system"
        sed 's|/usr/local/|/usr/|g' "$unit" > "$work/lib/systemd/system/${unit##*/}"
    done
    # Those of dev.d/needs that no Debian is without are left out.
    depends=$(needs run | cut -f2 | sort -u | grep -vxE 'apt|dpkg|tar' | tr '\n' ',' | sed 's/,$//; s/,/, /g')
    install -d "$work/DEBIAN"
    cat > "$work/DEBIAN/control" <<CONTROL
Package: palatine
Version: $VERSION
Architecture: amd64
Maintainer: Palatine <https://github.com/palatine-cloud/palatine>
Section: admin
Priority: optional
Depends: $depends
Homepage: https://github.com/palatine-cloud/palatine
Description: a self-hosted cloud for AI agents in microVMs of their own
 Whoever holds the operator's token signs one request with a Solana wallet and
 gets an agent in a microVM: with its own URL and credential, disk, memory and
 network, metered, and gone without a trace when it is stopped.
CONTROL
    even "$work"
    dpkg-deb --root-owner-group -Zgzip -z6 --build "$work" "$PACKAGES/palatine_${VERSION}_amd64.deb" >/dev/null
    rm -rf "$work"
}

# One mode for all files of a kind, one time: what the builder's umask and clock say is nobody's matter.
even() { # root
    find "$1" -name .installed -delete
    # Five digits also take what a folder hands down to those in it.
    find "$1" -type d -exec chmod 00755 {} +
    find "$1" -type f -perm /111 -exec chmod 00755 {} +
    find "$1" -type f ! -perm /111 -exec chmod 00644 {} +
    find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}
