"""Node images started in QEMU on one virtual switch, and checked: is each what the manifest says?"""
