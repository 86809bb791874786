"""Access to the host: processes, loop devices, mounts, block devices, files, the journal."""
