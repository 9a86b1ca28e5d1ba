# `./dev fuzz`: libFuzzer's programs over their seeds. What they find new is kept in the cache, and gone on from.
# shellcheck shell=bash

FUZZ=$CACHE/fuzz

fuzz() {
    flags "$@"
    prepare run build test
    alone
    prebuilt
    need_space release
    devtool
    say "Building the fuzzer's programs"
    # The dependencies as they are shipped: many are weaker when they are told that they are fuzzed.
    (cd fuzz && cargo fuzz build -s none --no-cfg-fuzzing --target-dir "$FUZZ/target") \
        || fail "The fuzzer's programs could not be built. Is there a network?"
    "$DEVTOOL" fuzz --programs "$FUZZ/target/$TRIPLE/release" --home "$FUZZ" "${ARGS[@]}"
}
