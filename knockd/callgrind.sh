#!/bin/sh
# Instructions of one decision, by how far a packet gets. They don't drift from run to run, unlike times.
set -eu
cd "$(dirname "$0")/.."
program=${CARGO_TARGET_DIR:-target}/release/examples/decide
command -v valgrind >/dev/null || { echo 'valgrind is missing: apt install valgrind' >&2; exit 69; }
cargo build --quiet --release --package knockd --example decide
instructions() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : //p'
}
for case in unknown-tag bad-mac replayed granted; do
    many=$(instructions "$case" 1000)
    none=$(instructions "$case" 0)
    echo "decide/$case: $(( (many - none) / 1000 )) instructions"
done
