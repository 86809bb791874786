"""What make-specimen and make-debian-base share: the layout of Raspberry Pi OS, and its file layers."""
