#!/bin/sh
# Sets up a device whose MQTT client stands before a door: puts the profile in place, knocks once to see that it
# works, and has systemd keep the door open from then on.
#
#   knockd client add press-17 --service mqtts --server broker.example.com --out press-17.toml   # on the broker's host
#   scp press-17.toml knock-spa_*.deb provision-device.sh press-17:                              # by a way you trust
#   ssh press-17 sudo sh provision-device.sh press-17.toml knock-spa_*.deb                       # on the device
#
# The second argument may be left out where `knock` is installed. Run again, it changes nothing that is right already.
set -eu

# Another folder for trying it out.
etc=${KNOCK_ETC:-/etc/knock}

say() { echo "provision-device: $*"; }
die() { say "$*" >&2; exit 1; }

if [ $# -lt 1 ] || [ ! -f "$1" ]; then
    die "usage: $0 PROFILE.toml [knock-spa.deb]"
fi
[ "$(id -u)" -eq 0 ] || die "run it as root: the profile holds a key, and is root's alone"

if [ $# -ge 2 ]; then
    package=$(readlink -f "$2")
    apt-get install -q -y "$package"
fi
command -v knock >/dev/null || die "there is no knock: name its package behind the profile"

# Profiles' names stand in brackets, those with a dot in quotes as well; lines may end as on Windows.
names=$(tr -d '\r' <"$1" | sed -n 's/^\["\{0,1\}\([A-Za-z0-9][A-Za-z0-9._-]*\)"\{0,1\}\]$/\1/p')
name=$(echo "$names" | head -n 1)
[ -n "$name" ] || die "$1 has no profile: it is what \`knockd client add\` prints"
[ "$name" = "$names" ] || say "of the profiles in $1, this sets up the first one, \"$name\""

# Never readable for others, not even for a moment, and never half written.
umask 077
mkdir -p "$etc"
if cmp -s "$1" "$etc/knock.toml"; then
    say "the profile \"$name\" is in place"
else
    cat "$1" >"$etc/knock.toml.new"
    mv "$etc/knock.toml.new" "$etc/knock.toml"
    say "the profile \"$name\" is new: delete $1, which holds the same key"
fi

# Not --wait where the profile has no port: then it is sent, and no more can be known.
if grep -q '^port *= *"tcp/' "$1"; then
    knock --config "$etc/knock.toml" "$name" --wait=30s
else
    knock --config "$etc/knock.toml" "$name"
fi

if [ -d /run/systemd/system ]; then
    systemctl enable "knock-keep@$name.service"
    systemctl reload-or-restart "knock-keep@$name.service"
    say "knock-keep@$name keeps the door open, at each boot: let your client's unit say PartOf= and After=knock-keep@$name.service,"
    say "Restart=always, and below [Install] WantedBy=knock-keep@$name.service; then: systemctl enable --now YOUR-CLIENT"
else
    say "no systemd runs here: have your client started by: knock --keep $name -- CLIENT"
fi
