#!/bin/sh
# Builds the client as it is shipped, as small as it goes: target/client/knock, or with the word `static`
# target/static/knock, which needs no library.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-target}

build() {
    "$cargo" rustc --profile client --package knock --bin knock "$@" -- \
        -C link-arg=-Wl,--no-eh-frame-hdr -C link-arg=-Wl,-T,"$PWD/knock/unwind.ld"
}

case "${1:-}" in
'') build ;;
static)
    # With --target, so that the flag is not for what runs while building.
    triple=$("${RUSTC:-rustc}" --version --verbose | sed -n 's/^host: //p')
    # Random bytes by the system call: getrandom would look for libc's symbol at run time, where there is no loader, and
    # fall back to /dev/urandom, which a container may lack.
    flags='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'
    CARGO_TARGET_DIR="$target/static" RUSTFLAGS="$flags" build --target "$triple"
    cp "$target/static/$triple/client/knock" "$target/static/knock"
    ;;
*)
    echo "usage: knock/build.sh [static]" >&2
    exit 64
    ;;
esac
