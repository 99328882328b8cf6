#!/bin/sh
# Installs the Debian packages that the tests and the demo need, and says so. Changes nothing else:
# no service that a package brings is left running.
set -eu

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { echo "==> setup: $*"; }

# shellcheck source=tests/need.sh
. "$(dirname "$0")/need.sh"
missing=$(missing <<END
nft nftables
ip iproute2
sysctl procps
mosquitto mosquitto
mosquitto_sub mosquitto-clients
nmap nmap
ufw ufw
iptables iptables
openssl openssl
python3 python3
ping iputils-ping
nsenter util-linux
faketime faketime
curl curl
promtool prometheus
strace strace
cc build-essential
END
)

# shellcheck disable=SC2086 # one word each
install_packages $missing
for service in mosquitto prometheus; do
    case "$missing " in *" $service "*)
        # It would listen on this machine from the next boot on. Only if it was installed just now.
        if [ -d /run/systemd/system ]; then
            $root systemctl disable --quiet --now "$service.service"
            say "$service.service was installed, and is switched off: the tests start their own"
        fi ;;
    esac
done

if ! unshare --map-root-user --net --mount --pid --fork true 2>/dev/null; then
    say "this system doesn't let this user make namespaces (unshare -rnm)." >&2
    say "On Ubuntu: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" >&2
    say "In a container: run it with --privileged, or on a plain machine." >&2
    exit 1
fi
say "all there"
