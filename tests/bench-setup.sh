#!/bin/sh
# Installs what `make bench` needs beyond the tests, and says so: the peers that it measures beside knockd
# (fwknop from Debian; letmein by cargo, into target/peers), and tools. No service is left running.
set -eu

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
LETMEIN=12.6.0
say() { echo "==> bench-setup: $*"; }
cd "$(dirname "$0")/.."

if [ "$(id -u)" -ne 0 ]; then
    say "the benchmark needs root: a daemon with a large receive buffer, peers that change their user." >&2
    exit 1
fi

. tests/need.sh
missing=$(missing <<END
fwknopd fwknop-server
fwknop fwknop-client
iptables iptables
strace strace
chrt util-linux
cc build-essential
END
)
# shellcheck disable=SC2086 # one word each
install_packages $missing
case "$missing " in *" fwknop-server "*)
    if [ -d /run/systemd/system ]; then
        systemctl disable --quiet --now fwknop-server.service
        say "fwknop-server.service was installed, and is switched off"
    fi ;;
esac

for program in letmein letmeind letmeinfwd; do
    if [ ! -x "target/peers/bin/$program" ]; then
        say "cargo install $program $LETMEIN, into target/peers"
        "${CARGO:-cargo}" install --quiet --locked --root target/peers --version "$LETMEIN" "$program"
    fi
done
if ! getent passwd letmeind >/dev/null; then
    say "adding the system user letmeind, which letmein's daemons run as"
    useradd --system --user-group --no-create-home --shell /usr/sbin/nologin letmeind
fi
say "all there"
