#!/bin/sh
# mtools 4.0.32 (Debian 12: 4.0.33-1+really4.0.32-1).
# mmd of a folder that exists exits with 1 and prints nothing, neither to standard output nor to standard error,
# also with -D s (skip) and -D o (overwrite). Its manual page says "an error occurs". So a script
# cannot tell an existing folder, which is mostly welcome, from a failure: it must look with mdir first.
# Exit status: 0 while it is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
version=4.0.33-1+really4.0.32-1
apt-get download -qq -o APT::Sandbox::User=root "mtools=$version" >/dev/null
dpkg-deb -x mtools_*.deb unpacked
export PATH="$folder/unpacked/usr/bin:$PATH" MTOOLSRC=/dev/null
mformat -C -i disk.img -v EMPTY -T 8192 ::
mmd -i disk.img ::/made
echo "mtools $version, mmd of a folder that exists: status, and bytes printed"
for option in "" "-D s" "-D o"; do
    status=0
    # shellcheck disable=SC2086 # two words or none
    mmd $option -i disk.img ::/made </dev/null >said 2>&1 || status=$?
    echo "mmd $option: $status, $(wc -c <said)"
    [ "$status" = 1 ] && [ ! -s said ]
done
