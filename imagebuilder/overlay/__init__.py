"""Layers and templates to a node's list of entries. Pure: no image is needed, nothing is written."""
