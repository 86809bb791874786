"""SSH keys, password hashes and Wi-Fi keys, and the folder in which a cluster's keys are kept."""
