"""piimg: from one cluster manifest to verified, bootable Raspberry Pi SD cards."""

__version__ = "0.1.0"
