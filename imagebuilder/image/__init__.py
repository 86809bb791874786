"""Disk images: partitions, file systems, trees, and building a node image from a base image."""
