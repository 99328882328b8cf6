#!/bin/sh
# Installs what `make deb` and `make deb-check` need beyond the tests, and says so: packages of Debian, and cargo-deb,
# into target/tools.
set -eu

CARGO_DEB=3.8.0
say() { echo "==> deb-setup: $*"; }
cd "$(dirname "$0")/.."

. tests/need.sh
missing=$(missing <<END
dpkg-shlibdeps dpkg-dev
lintian lintian
man man-db
readelf binutils
END
)
# shellcheck disable=SC2086 # one word each
install_packages $missing

if ! target/tools/bin/cargo-deb --version 2>/dev/null | grep -qxF "cargo-deb $CARGO_DEB"; then
    say "cargo install cargo-deb $CARGO_DEB, into target/tools"
    "${CARGO:-cargo}" install --quiet --locked --root target/tools --version "$CARGO_DEB" cargo-deb
fi
say "all there"
