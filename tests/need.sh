# shellcheck shell=sh
# What the scripts beside it share that install Debian packages; they have `say`.

# The packages whose commands aren't there: of lines with a command of each, and the package.
missing() {
    while read -r command package; do
        command -v "$command" >/dev/null 2>&1 || printf ' %s' "$package"
    done
}

# Installs these packages, and says so; without any it does nothing. No service that they bring is started. From here on
# `$root` is what a command for root begins with.
install_packages() {
    root=
    [ "$#" -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        say "missing: $*. This isn't Debian or Ubuntu: please install them by hand." >&2
        exit 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            say "missing: $*. Run as root: apt-get install $*" >&2
            exit 1
        fi
        root=sudo
    fi
    say "installing from Debian: $*"
    $root apt-get update -q
    # RUNLEVEL=1 keeps packages from starting their services while they are installed.
    $root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -q -y --no-install-recommends "$@"
}
