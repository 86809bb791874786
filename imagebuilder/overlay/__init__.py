"""Overlays: layers and templates to a node's list of entries. Needs no image and writes nothing."""
