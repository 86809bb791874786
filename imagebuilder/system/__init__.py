"""Every side effect on the host: processes, loop devices, mounts, block devices, files, the journal."""
