#!/bin/sh
# chrony 4.3-2+deb12u3 (Debian 12).
# /etc/chrony/conf.d and /etc/chrony/sources.d are there for files of the administrator and of other packages.
# "dpkg --purge chrony" removes all of /etc/chrony, files that no package owns included, and says nothing about
# them: its script deletes the folder before dpkg looks whether it is empty. After the purge of logrotate, done
# the same way here, such a file is still there. Who reinstalls chrony has lost what was configured for it.
# Exit status: 0 while it is so, 1 when it has changed. Needs root and mmdebstrap.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mmdebstrap --quiet --variant=minbase --include=chrony=4.3-2+deb12u3,logrotate=3.21.0-1 bookworm "$folder/root.tar"
mkdir "$folder/root"
tar -xpf "$folder/root.tar" -C "$folder/root"
for own in chrony/conf.d/site.conf logrotate.d/site; do echo '# of the administrator' >"$folder/root/etc/$own"; done

chroot "$folder/root" dpkg-query --showformat '${Package} ${Version}\n' --show chrony logrotate
chroot "$folder/root" dpkg --purge logrotate chrony 2>&1 | grep -v invoke-rc.d
cd "$folder/root/etc"
ls -d logrotate.d/site chrony 2>&1 || true
[ -e logrotate.d/site ] || { echo "purging logrotate removes such a file as well"; exit 1; }
[ ! -e chrony ]
