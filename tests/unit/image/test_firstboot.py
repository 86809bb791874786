"""What the first boot edits is taken out of both sides of a comparison, and nothing else is."""

from imagebuilder.image.firstboot import merged_usr, settled_command_line, without_partuuids

BEFORE = (
    b"console=tty1 root=PARTUUID=5b0012aa-02 rootfstype=ext4 quiet "
    b"init=/usr/lib/raspberrypi-sys-mods/firstboot"
)
AFTER = b"console=tty1 root=PARTUUID=c0ffee00-02 rootfstype=ext4\n"


def test_the_command_line_before_and_after_the_first_boot_is_the_same() -> None:
    assert settled_command_line(BEFORE) == settled_command_line(AFTER)
    assert settled_command_line(BEFORE + b" resize") == settled_command_line(AFTER)


def test_another_change_of_the_command_line_stays_one() -> None:
    for changed in (b"init=/bin/sh", b"quieter", b"ip=dhcp"):
        assert settled_command_line(AFTER + changed) != settled_command_line(AFTER)
    other = AFTER.replace(b"c0ffee00-02", b"c0ffee00-03")  # another partition
    assert settled_command_line(other) != settled_command_line(AFTER)


def test_only_the_disk_id_of_fstab_may_change() -> None:
    line = b"PARTUUID=5b0012aa-01 /boot vfat defaults 0 2\n"
    assert without_partuuids(line) == without_partuuids(line.replace(b"5b0012aa", b"C0FFEE00"))
    assert without_partuuids(line) != without_partuuids(line.replace(b"-01", b"-02"))


def test_a_unit_has_two_names() -> None:
    assert merged_usr(b"/lib/systemd/system/ssh.service") == b"/usr/lib/systemd/system/ssh.service"
    assert merged_usr(b"/libx/a") == b"/libx/a"
