"""The host's disks: discovery (only here: pyudev), who uses them, and whether one may be written."""
