# What is built, and the folder of assets that the programs and their tests find beside them.
# shellcheck shell=bash

programs() { # profile folder (debug | release)
    local flag=()
    [ "$1" = release ] && flag=(--release)
    say "Building palatine and hypercore ($1)"
    cargo build --locked "${flag[@]}" -p palatine-palatine -p palatine-hypercore --bins \
        || fail "The build failed. Without a network, cargo needs its crates from an earlier build."
}

# Folders of this machine, and what stands for each in programs that leave it: where it was built changes no byte.
replaced() { printf '%s\n' "$PWD=/palatine" && borrowed; }

# Those that are not the checkout. Cargo names a workspace's own files from its root: what is built with these flags is the
# same in every checkout, and is not built again in another one.
borrowed() {
    printf '%s\n' "$CACHE=/cache" "${CARGO_HOME:-$HOME/.cargo}=/cargo" "$(rustc --print sysroot)/lib/rustlib=/rust"
}

# No program that leaves this machine names a folder of it.
placeless() { # programs…
    local pair folder found
    while read -r pair; do
        folder=${pair%=*} found=0
        # A folder that stands for itself is the same wherever it is.
        [ "$folder" != "${pair#*=}" ] || continue
        # At the beginning of a path: another one may go on with the same names.
        LC_ALL=C grep -qaP "(?<![\w./-])\Q$folder\E/" -- "$@" || found=$?
        [ "$found" != 0 ] || fail "A program names $folder, a folder of the machine that built it."
        [ "$found" = 1 ] || fail "The programs cannot be looked into."
    done < <(replaced)
}

guests() {
    local pair flags='-Ctarget-feature=+crt-static'
    while read -r pair; do
        flags+=$'\x1f'"--remap-path-prefix=$pair"
    done < <(borrowed)
    say "Building what runs inside the guests"
    CARGO_ENCODED_RUSTFLAGS=$flags cargo build --locked --profile guest --target "$TRIPLE" \
        --target-dir "$CACHE/guest" -p palatine-pod -p agent-echo || fail "The guest programs could not be built."
    assets
}

# One folder with all that `palatine up` needs beside the binaries.
assets() {
    mkdir -p "$ASSETS/images"
    fresh "$CACHE/guest/$TRIPLE/guest/pod" "$ASSETS/pod"
    local recipe
    for recipe in images/*/image.toml; do
        mkdir -p "$ASSETS/$(dirname "$recipe")"
        fresh "$recipe" "$ASSETS/$recipe"
    done
    fresh "$CACHE/guest/$TRIPLE/guest/agent-echo" "$ASSETS/images/agent-echo/agent-echo"
    packages solana "the local Solana" deploy/dev/solana
    packages evm "the local EVM chain" deploy/dev/evm
}

# Our own files in a folder of npm packages.
named_files() { # folder
    local file
    for file in "$1"/*.mjs "$1"/package*.json "$1"/absent/package.json; do
        [ ! -e "$file" ] || printf '%s\n' "${file#"$1"/}"
    done
}

# Installs the npm packages of a folder into one of the same kind among the assets.
packages() { # name, what it is, folder, npm's further words
    local what=$2 from=$3 file into=$ASSETS/$1
    shift 3
    mkdir -p "$into"
    while read -r file; do
        mkdir -p "$(dirname "$into/$file")"
        fresh "$from/$file" "$into/$file"
    done < <(named_files "$from")
    cmp -s "$into/package-lock.json" "$into/node_modules/.installed" && return
    say "Installing $what"
    npm ci --prefix "$into" --ignore-scripts --no-audit --no-fund --silent "$@" >&2 \
        || fail "npm could not install $what. Is there a network?"
    cp "$into/package-lock.json" "$into/node_modules/.installed"
}

# Installs what a file of pinned hashes names, for the Python that runs the tests.
python_packages() { # file
    local into=$ASSETS/python stamp
    stamp="$(python3 --version) $(sha256sum <"$1")"
    [ "$(cat "$into/.installed" 2>/dev/null)" = "$stamp" ] && return
    say "Installing OpenAI's client for Python, and Hypercorn"
    rm -rf "$into"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$into" \
        --no-deps --only-binary :all: --require-hashes --requirement "$1" >&2 \
        || fail "pip could not install them. Is there a network?"
    printf '%s' "$stamp" >"$into/.installed"
}

# What only the tests need: the compiler of the contracts, x402's other sides, others' clients and servers.
test_assets() {
    packages contracts "the contracts' tools" contracts
    packages x402 "x402's clients and servers" crates/x402/tests/npm --omit=optional --omit=peer
    packages clients "others' clients for Node" crates/palatine/tests/npm
    python_packages crates/palatine/tests/python/requirements.txt
}

# The version before this one, of the commit in tests/last-version: its programs, and what they boot.
last_version() {
    local commit last=$CACHE/last-version
    commit=$(cat tests/last-version)
    export PALATINE_LAST_VERSION=$last
    [ "$(cat "$last/built" 2>/dev/null)" != "$commit" ] || return 0
    git cat-file -e "$commit^{commit}" 2>/dev/null \
        || fail "The last version's commit $commit is not in this checkout: git fetch --unshallow"
    say "Building the last version, $commit"
    rm -rf "$last" && mkdir -p "$last/tree"
    git archive "$commit" | tar -x -C "$last/tree"
    (
        cd "$last/tree"
        CACHE=$last TARGET=$last/target ASSETS=$last/assets
        export CARGO_TARGET_DIR=$TARGET
        # shellcheck source=/dev/null
        . dev.d/build.sh
        programs debug
        guests
    )
    # What was only needed to build it is large.
    rm -rf "$last"/{tree,guest} "$last"/target/debug/{build,deps,incremental,.fingerprint}
    printf '%s' "$commit" > "$last/built"
}

# Builds the contracts and holds them to what they promise, with what is built kept in the cache.
contracts() {
    mkdir -p "$CACHE/contracts"
    PALATINE_CONTRACTS_MODULES=$ASSETS/contracts/node_modules FOUNDRY_OUT=$CACHE/contracts/out \
        FOUNDRY_CACHE_PATH=$CACHE/contracts/cache contracts/check 2>&1 | tee "$RUN/contracts.log"
}

# Copies only what changed, so that what depends on it stays cached.
fresh() { cmp -s "$1" "$2" || install -m "$(stat -c %a "$1")" "$1" "$2"; }
