#!/bin/sh
# Installs what `make test-system` needs beyond the tests, from Debian, and says so. No service is left running.
set -eu

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { echo "==> system-setup: $*"; }

if [ "$(id -u)" -ne 0 ]; then
    say "the system test boots a whole Debian, and needs root: sudo make test-system" >&2
    exit 1
fi

# A command of each package, and the package.
missing=
while read -r command package; do
    command -v "$command" >/dev/null 2>&1 || missing="$missing $package"
done <<END
mmdebstrap mmdebstrap
systemd-nspawn systemd-container
dpkg-deb dpkg
unshare util-linux
ip iproute2
mosquitto_pub mosquitto-clients
ssh openssh-client
ssh-keygen openssh-client
python3 python3
END
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    missing="$missing python3-venv"
fi
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        say "missing:$missing. This isn't Debian or Ubuntu: please install them by hand." >&2
        exit 1
    fi
    say "installing from Debian:$missing"
    apt-get update -q
    # RUNLEVEL=1 keeps packages from starting their services while they are installed.
    # shellcheck disable=SC2086 # one word each
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $missing
fi

# What the roles in config/ansible are run by, as users have it: from PyPI.
ANSIBLE=2.19.14
cd "$(dirname "$0")/.."
if ! target/system/ansible/bin/ansible --version 2>/dev/null | grep -qF "[core $ANSIBLE]"; then
    say "pip install ansible-core $ANSIBLE, into target/system/ansible"
    rm -rf target/system/ansible
    python3 -m venv target/system/ansible
    target/system/ansible/bin/pip install --quiet "ansible-core==$ANSIBLE"
fi
say "all there"
