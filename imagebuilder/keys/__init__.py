"""SSH keys, host keys, password hashes and Wi-Fi keys."""
