"""SSH keys, password hashes and Wi-Fi keys, and the folder that stores a cluster's keys."""
