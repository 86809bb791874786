#!/bin/sh
# xz-utils 5.4.1-1+deb12u2 (Debian 12).
# When a file needs more memory to unpack than --memlimit-decompress allows, xz says how much is required, so
# that the limit can be raised. The figure is always 1 MiB, below the limit that was just refused: here for a
# file of `xz -9`, which needs 65 MiB. `xz --robot --list -vv` has the true figure (second word of "summary", in bytes).
# Exit status: 0 while it is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
version=5.4.1-1+deb12u2
apt-get download -qq -o APT::Sandbox::User=root "xz-utils=$version" "liblzma5=$version" >/dev/null
for package in *.deb; do dpkg-deb -x "$package" unpacked; done
xz() { LD_LIBRARY_PATH=$(echo "$folder"/unpacked/lib/*) LC_ALL=C "$folder/unpacked/usr/bin/xz" "$@"; }
head -c 1000000 /dev/urandom >file
xz -9 file
said=$(xz -dc --memlimit-decompress=10MiB file.xz 2>&1 >/dev/null | sed 's/^.*: //') 
needed=$(xz --robot --list -vv file.xz | awk '$1 == "summary" { print $2 }')
echo "xz-utils $version, limit 10 MiB: $said"
echo "xz --list: $needed bytes are needed"
[ "$needed" -gt 67108864 ] && echo "$said" | grep -q '^1 MiB of memory is required'
