#!/bin/sh
# Installs what `make test-system` needs beyond the tests, from Debian, and says so. No service is left running.
set -eu

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { echo "==> system-setup: $*"; }

if [ "$(id -u)" -ne 0 ]; then
    say "the system test boots a whole Debian, and needs root: sudo make test-system" >&2
    exit 1
fi

# shellcheck source=tests/need.sh
. "$(dirname "$0")/need.sh"
missing=$(missing <<END
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
)
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    missing="$missing python3-venv"
fi
# shellcheck disable=SC2086 # one word each
install_packages $missing

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
