#!/bin/sh
# Runs a fuzz target, or all of them one after another, for so many executions each; stops at a finding.
#   tests/fuzz/run.sh all|TARGET RUNS
# What is new is kept in target/fuzz/corpus, and the input that broke a promise in tests/fuzz/artifacts.
set -eu
cd "$(dirname "$0")/../.."
target_dir=${CARGO_TARGET_DIR:-target}/fuzz

if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo 'make fuzz needs a nightly compiler and cargo-fuzz:' >&2
    echo '    rustup toolchain install nightly --profile minimal && cargo install cargo-fuzz' >&2
    exit 69
fi
# No unsafe code of ours is there for a sanitizer to look into. -O leaves the checks of arithmetic to
# tests/fuzz/Cargo.toml. The ciphers' vector code would run at half the speed when it is instrumented.
export RUSTFLAGS="-Zub-checks=no --cfg poly1305_backend=\"soft\" --cfg chacha20_backend=\"soft\""
fuzz() {
    command=$1
    shift
    cargo +nightly fuzz "$command" --fuzz-dir tests/fuzz --target-dir "$target_dir" -s none -O "$@"
}

case $1 in
    all) targets=$(cargo +nightly fuzz list --fuzz-dir tests/fuzz) ;;
    *) targets=$1 ;;
esac
fuzz build
for target in $targets; do
    # As long as an input must be to say all that there is to say.
    case $target in
        request) longest=128 ;;
        decide) longest=192 ;;
        profile) longest=256 ;;
        config | journal) longest=512 ;;
        listing) longest=2048 ;;
        *) longest=1024 ;;
    esac
    echo "==> fuzz $target: $2 executions"
    mkdir -p "$target_dir/corpus/$target"
    fuzz run "$target" "$target_dir/corpus/$target" "tests/fuzz/corpus/$target" -- \
        -runs="$2" -max_len="$longest" -timeout=10 -verbosity=1
done
