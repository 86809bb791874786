"""Dressed bases: base images with packages installed and build scripts run, kept in the cache."""
