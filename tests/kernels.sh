#!/bin/sh
# Runs the main scenarios of the end-to-end tests on Debian's own kernels, each in a machine of qemu: 6.1 of Debian 12
# and 6.12 of Debian 13. How the table is read, put in and mended depends on the kernel, and so does what a packet
# meets that it was never made for. As root; needs no network once the root file systems are made.
#
# kernels.sh [bookworm|trixie]...
#
# The root file system is the machine's initramfs, as it is: nothing has to be in the kernel but what it boots with. The
# programs and the repository are mounted in it, read-only, where they are on this machine.
set -eu

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { echo "==> kernels: $*"; }

# How long one machine may take, and its memory in MiB.
LIMIT=${LIMIT:-3600}
MEMORY=4096

# What runs, in a process of its own for each: a test program, and its scenarios (all of them if none is named).
scenarios() {
    cat <<END
offload
unread fragments_within_fragments_reach_no_service_behind_this_host
unread fragments_within_fragments_to_this_host_have_no_answer
door a_knock_opens_the_port_for_its_sender_alone_and_only_for_its_time
door a_knock_over_ipv6_opens_the_port_for_its_sender_alone_and_only_for_its_time
door an_established_session_ends_with_the_grant_where_sessions_are_cut
door a_service_routed_behind_the_host_is_guarded_by_its_address
firewall after_install_the_door_is_shut_without_any_daemon
firewall install_twice_is_install_once_and_keeps_live_grants_and_sessions
firewall status_tells_a_missing_table_a_missing_rule_and_a_foreign_rule
mend
firewall with_a_ruleset_that_flushes_all_it_goes_in_by_one_transaction_and_doors_and_bans_stay
table every_rule_that_is_replaced_under_its_own_comment_is_found_and_put_right
table every_attribute_of_sets_chains_and_rules_that_is_changed_is_found_and_put_right
table the_ruleset_as_text_is_taken_back_by_nft_and_what_it_can_not_say_as_json_is_the_tags_alone
table what_is_too_much_to_be_carried_into_a_table_that_is_put_in_anew_is_told
table doors_that_somebody_opens_by_the_thousand_are_shut_and_live_grants_are_back
grants grants_are_listed_with_names_after_kill_9_and_a_restart
replay a_replay_opens_nothing_after_kill_9_of_the_daemon
bans bans_survive_the_daemons_end_its_start_a_reload_and_the_loss_of_the_table
operate an_admins_ban_ends_grants_refuses_knocks_and_is_lifted_by_unban
unread packets_of_every_odd_shape_reach_no_service_on_this_host_and_have_no_answer
unread packets_of_every_odd_shape_reach_no_service_behind_this_host
unread what_has_no_port_and_what_goes_through_to_others_passes_as_before
END
}

if [ "$(id -u)" -ne 0 ]; then
    say "a root file system is made and packed: this needs root: sudo make test-kernels" >&2
    exit 1
fi
if [ "$(uname -m)" != x86_64 ]; then
    say "the programs are built for this machine, and the kernels are those for amd64: this needs one" >&2
    exit 1
fi

# shellcheck source=tests/need.sh
. "$(dirname "$0")/need.sh"
missing=$(missing <<END
qemu-system-x86_64 qemu-system-x86
mmdebstrap mmdebstrap
cpio cpio
END
)
# shellcheck disable=SC2086 # one word each
install_packages $missing

cd "$(dirname "$0")/.."
repository=$PWD
mkdir -p "${CARGO_TARGET_DIR:-target}" target/kernels
out=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
work=$repository/target/kernels

# What the scenarios call, beside what is in every Debian.
PACKAGES=curl,faketime,iproute2,iptables,iputils-ping,kmod,mosquitto,mosquitto-clients,nftables,nmap,openssl,procps,python3,strace
# The kernel's files alone: its package would make an initramfs of its own.
# shellcheck disable=SC2016 # for the shell that runs it
KERNEL='chroot "$1" sh -ec '\''
    cd /srv
    apt-get -q download "$(apt-cache depends linux-image-amd64 | sed -n "s/^ *Depends: //p")"
    dpkg-deb --fsys-tarfile linux-image-*.deb | tar --extract --directory=/ --keep-directory-symlink ./boot --wildcards "./*lib/modules"
    rm linux-image-*.deb
    depmod "$(cd /lib/modules && ls)"
'\'''

# Makes the root file system of a release, kernel included, if it isn't there: another list of packages is another folder.
ensure() {
    root=$work/$1-$(echo "$1 $PACKAGES $KERNEL" | cksum | cut -d' ' -f1)
    if [ ! -d "$root" ]; then
        say "a root file system of $1 with its kernel, by mmdebstrap: some minutes"
        rm -rf "$root.making"
        mmdebstrap --quiet --variant=minbase --format=directory --include="$PACKAGES" \
            --customize-hook="$KERNEL" "$1" "$root.making"
        # Whole, or not there.
        mv "$root.making" "$root"
    fi
}

# What the machine runs first, and all that it runs.
init() {
    cat <<END
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 CARGO=true
mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
mkdir -p /dev/pts /dev/shm '$repository' '$out'
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
touch /etc/resolv.conf
ip link set lo up
modprobe -a virtio_pci 9pnet_virtio 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro repository '$repository'
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro out '$out'
echo "Linux \$(uname -r), \$(nft --version)"
failed=0
while read -r program scenario; do
    begin=\$(date +%s)
    # What they call is built: CARGO has nothing to do.
    if "\$program" --test-threads=$threads --show-output --exact \$scenario >/tmp/output; then
        sed '/^\$/d; /^running /d; /^successes:/d; /^----/d; /^    [a-z0-9_]*\$/d; /^test result/d' /tmp/output
    else
        failed=\$((failed + 1))
        cat /tmp/output
    fi
    echo "    \$((\$(date +%s) - begin)) s"
done </scenarios
echo "ended, failed: \$failed"
echo o >/proc/sysrq-trigger
sleep 60
END
}

# Boots a release with what is to run, and fails if that does, or if the machine ends without having said that it is done.
boot() {
    ensure "$1"
    if [ ! -e "$root.cpio" ]; then
        # Devices are the kernel's; of its modules, those for the network and for reaching this machine's folders.
        (cd "$root" && find . \( -path ./boot -o -path './dev/*' -o -path './var/cache/*' -o -path './var/lib/apt/*' \
            -o -path './usr/share/doc/*' -o -path './usr/share/locale/*' -o -path './usr/share/man/*' \
            -o -path '*/kernel/sound' -o -path '*/kernel/drivers/net/*/*' \
            -o -path '*/kernel/drivers/*' ! -path '*/kernel/drivers/virtio*' ! -path '*/kernel/drivers/net*' \
            -o -path '*/kernel/fs/*' ! -path '*/kernel/fs/9p*' ! -path '*/kernel/fs/netfs*' ! -path '*/kernel/fs/fscache*' \
            \) -prune -o -print0 \
            | cpio --quiet --null --create --format=newc) >"$root.cpio.making"
        mv "$root.cpio.making" "$root.cpio"
    fi
    # A processor of the host's if it has one to lend, or one made in software: that takes some ten times as long,
    # and nft its ten seconds if others run beside it.
    accel=tcg cpu=max threads=1
    if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then accel=kvm cpu=host threads=4; fi
    own=$(mktemp -d "$work/machine.XXXXXX")
    init >"$own/init"
    chmod 755 "$own/init"
    cp "$work/scenarios" "$own/scenarios"
    (cd "$own" && printf 'init\nscenarios\n' | cpio --quiet --create --format=newc) | cat "$root.cpio" - >"$own/initrd"
    say "$1, $(cd "$root/boot" && echo vmlinuz-*), by $accel"
    timeout --foreground "$LIMIT" qemu-system-x86_64 -M "q35,accel=$accel" -cpu "$cpu" -smp 2 -m "$MEMORY" -no-reboot \
        -nodefaults -nographic -serial stdio -nic none \
        -kernel "$root"/boot/vmlinuz-* -initrd "$own/initrd" -append 'console=ttyS0 quiet panic=-1' \
        -virtfs "local,path=$repository,mount_tag=repository,security_model=none,readonly=on" \
        -virtfs "local,path=$out,mount_tag=out,security_model=none,readonly=on" \
        </dev/null | sed --unbuffered 's/\r$//' | tee "$work/$1.log" || true
    rm -r "$own"
    grep -q '^ended, failed: 0$' "$work/$1.log"
}

say "the programs"
cargo=${CARGO:-cargo}
$cargo build --quiet --package knockd --package knock --package e2e \
    --bin knockd --bin knock --bin packet --bin manager
# shellcheck disable=SC2046 # options and names without spaces
$cargo test --package e2e --no-run $(scenarios | cut -d' ' -f1 | sort -u | sed 's/^/--test /') 2>&1 \
    | tee "$work/built" | grep -E '^(warning|error)' || true
# Each scenario with the program that it is in.
scenarios | while read -r program scenario; do
    file=$(sed -n "s|^ *Executable tests/$program\.rs (\(.*\))\$|\1|p" "$work/built")
    case $file in
        /*) ;;
        ?*) file=$repository/$file ;;
        *)
            cat "$work/built" >&2
            exit 1 ;;
    esac
    echo "$file $scenario"
done >"$work/scenarios"

if [ $# -eq 0 ]; then set -- bookworm trixie; fi
failed=
for release in "$@"; do
    boot "$release" || failed="$failed $release"
done
if [ -n "$failed" ]; then
    say "failed on:$failed" >&2
    exit 1
fi
say "all passed"
