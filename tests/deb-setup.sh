#!/bin/sh
# Installs what `make deb` and `make deb-check` need beyond the tests, and says so: packages of Debian, and cargo-deb,
# into target/tools.
set -eu

CARGO_DEB=3.8.0
say() { echo "==> deb-setup: $*"; }
cd "$(dirname "$0")/.."

# A command of each package, and the package.
missing=
while read -r command package; do
    command -v "$command" >/dev/null 2>&1 || missing="$missing $package"
done <<END
dpkg-shlibdeps dpkg-dev
lintian lintian
man man-db
readelf binutils
END
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        say "missing:$missing. This isn't Debian or Ubuntu: please install them by hand." >&2
        exit 1
    fi
    root=
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            say "missing:$missing. Run as root: apt-get install$missing" >&2
            exit 1
        fi
        root=sudo
    fi
    say "installing from Debian:$missing"
    $root apt-get update -q
    # shellcheck disable=SC2086 # one word each
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
fi

if ! target/tools/bin/cargo-deb --version 2>/dev/null | grep -qxF "cargo-deb $CARGO_DEB"; then
    say "cargo install cargo-deb $CARGO_DEB, into target/tools"
    "${CARGO:-cargo}" install --quiet --locked --root target/tools --version "$CARGO_DEB" cargo-deb
fi
say "all there"
