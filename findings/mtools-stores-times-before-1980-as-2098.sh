#!/bin/sh
# mtools 4.0.32 (Debian 12: 4.0.33-1+really4.0.32-1).
# FAT counts years from 1980. mtools does not bound a time before that: with SOURCE_DATE_EPOCH=0, which many
# reproducible builds set, a folder that mmd makes is of 2098-01-01, without a warning; a file that mcopy -m
# copies with a time of 1970 is of 2098, too. In 2098 it is "newer" than all else.
# Exit status: 0 while it is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
version=4.0.33-1+really4.0.32-1
apt-get download -qq -o APT::Sandbox::User=root "mtools=$version" >/dev/null
dpkg-deb -x mtools_*.deb unpacked
export PATH="$folder/unpacked/usr/bin:$PATH" MTOOLSRC=/dev/null TZ=UTC
mformat -C -i disk.img -v EMPTY -T 8192 ::
SOURCE_DATE_EPOCH=0 mmd -i disk.img ::/made
touch -d @0 file
mcopy -m -i disk.img file ::/copied
echo "mtools $version, SOURCE_DATE_EPOCH=0 mmd, and mcopy -m of a file of 1970:"
mdir -i disk.img ::/ | grep -E '^(made|copied)'
[ "$(mdir -i disk.img ::/ | grep -cE '^(made|copied) .*2098-01-01')" = 2 ]
