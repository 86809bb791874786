"""Boot node images in QEMU on one virtual switch, and check each against the cluster manifest."""
