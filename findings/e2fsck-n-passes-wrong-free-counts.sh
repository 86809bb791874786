#!/bin/sh
# e2fsck 1.47.0 (Debian 12, e2fsprogs 1.47.0-2+b2).
# "e2fsck -f -n" of an ext4 file system whose superblock says a wrong number of free blocks prints
# "Free blocks count wrong" and exits 0, the status that e2fsck(8) gives for "no errors". A script that
# believes the exit status calls it whole, and a tool that sizes a copy by dumpe2fs's count is misled.
# Exit status: 0 while it is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq e2fsprogs=1.47.0-2+b2 libext2fs2=1.47.0-2+b2 libss2=1.47.0-2+b2 libcom-err2=1.47.0-2+b2 \
    2>/dev/null
for package in *.deb; do dpkg-deb -x "$package" root; done
libraries=$(find root -name 'lib*.so.*' -printf '%h\n' | sort -u | tr '\n' ':')
tool() { program=$1; shift; LD_LIBRARY_PATH=$libraries "root/sbin/$program" "$@"; }

truncate -s 16M image
tool mke2fs -q -t ext4 image
tool debugfs -w -R 'set_super_value free_blocks_count 7' image 2>/dev/null
status=0
said=$(tool e2fsck -f -n image 2>version) || status=$?
head -n 1 version
echo "$said" | grep 'Free blocks count wrong' || { echo "it says nothing of the count"; exit 1; }
echo "exit status $status"
[ "$status" = 0 ]
