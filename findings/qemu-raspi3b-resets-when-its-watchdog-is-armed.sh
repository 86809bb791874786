#!/bin/sh
# QEMU 7.2 (Debian 12, qemu-system-arm 1:7.2+dfsg-7+deb12u18+b3), board raspi3b.
# The watchdog of a Raspberry Pi (PM_WDOG, PM_RSTC) resets the board when its time is over. QEMU's model of it
# resets the board at once when it is armed, whatever the time is. So an image whose init arms the watchdog, as
# systemd does with RuntimeWatchdogSec, resets again and again in emulation, and runs on the real board.
# A kernel of eight instructions arms it with 16 seconds and waits. The same kernel without the last write still
# runs after 5 seconds: nothing else ends QEMU.
# Exit status: 0 while it is so, 1 when it has changed. Needs root and mmdebstrap.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
version=1:7.2+dfsg-7+deb12u18+b3
mmdebstrap --quiet --variant=minbase --include="qemu-system-arm=$version" bookworm "$folder/root.tar"
mkdir "$folder/root"
tar -xpf "$folder/root.tar" -C "$folder/root" --exclude './dev/*'
rm "$folder/root.tar"

words() { # 32-bit words, little-endian
    for word in "$@"; do
        for shift in 0 8 16 24; do printf "\\$(printf %o $((word >> shift & 255)))"; done
    done
}
base=0xd2a7e200      # mov  x0, #0x3f100000          the power management registers of the BCM2837
value=0x52ab41e1     # mov  w1, #0x5a0f0000          the password 0x5a, and the upper bits of the time
time=0x729fffe1      # movk w1, #0xffff              0xfffff ticks of 16 microseconds
set_time=0xb9002401  # str  w1, [x0, #0x24]          PM_WDOG
full=0x52ab4001      # mov  w1, #0x5a000000
reset=0x72800401     # movk w1, #0x20                "full reset" when the time is over
arm=0xb9001c01       # str  w1, [x0, #0x1c]          PM_RSTC
wait=0x14000000      # b    .
words $base $value $time $set_time $full $reset $arm $wait >"$folder/root/armed.bin"
words $base $value $time $set_time $full $reset $wait >"$folder/root/not-armed.bin"

chroot "$folder/root" qemu-system-aarch64 --version | head -n 1
for kernel in not-armed armed; do
    status=0
    timeout 5 chroot "$folder/root" qemu-system-aarch64 -M raspi3b -kernel "/$kernel.bin" -display none \
        -serial none -monitor none -no-reboot || status=$?
    echo "$kernel: exit status $status"  # 124: it still ran after 5 seconds
    echo "$status" >"$folder/$kernel"
done
[ "$(cat "$folder/not-armed")" = 124 ]
[ "$(cat "$folder/armed")" = 0 ]
