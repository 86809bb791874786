#!/bin/sh
# libnetplan0 0.106-2+deb12u1 (Debian 12).
# NetworkManager's keyfile format has two spellings of a Wi-Fi name: text, and the list of its bytes
# (nm-settings-keyfile(5): ssid=72;111;109;101; is "Home"; NetworkManager writes that form for names that are
# not plain text). libnetplan, to which NetworkManager on Debian 13 and Ubuntu hands its profiles, reads the list
# as text: the network is then called "72;111;109;101;", without an error or a warning.
# Exit status: 0 while it is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
version=0.106-2+deb12u1
apt-get download -qq -o APT::Sandbox::User=root "libnetplan0=$version" >/dev/null
dpkg-deb -x libnetplan0_*.deb unpacked
umask 077
cat >home.nmconnection <<'KEYFILE'
[connection]
id=home
uuid=11111111-2222-4333-8444-555555555555
type=wifi
interface-name=wlan0

[wifi]
mode=infrastructure
ssid=72;111;109;101;

[ipv4]
method=auto
KEYFILE
python3 - unpacked/usr/lib/*/libnetplan.so.0.0 >netplan.yaml <<'PYTHON'
import ctypes
import sys

library = ctypes.CDLL(sys.argv[1])
for name in ("netplan_parser_new", "netplan_state_new"):
    getattr(library, name).restype = ctypes.c_void_p
parser, state = (ctypes.c_void_p(make()) for make in (library.netplan_parser_new, library.netplan_state_new))
error = ctypes.c_void_p()
if not library.netplan_parser_load_keyfile(parser, b"home.nmconnection", ctypes.byref(error)):
    sys.exit("the keyfile was not read")
library.netplan_state_import_parser_results(state, parser, ctypes.byref(error))
library.netplan_state_dump_yaml(state, 1, ctypes.byref(error))
PYTHON
echo "libnetplan0 $version: ssid=72;111;109;101; (\"Home\" as bytes) becomes the access point"
grep -A1 'access-points:' netplan.yaml
grep -q '^ *"72;111;109;101;":$' netplan.yaml
