"""`piimg doctor` in bare Debian systems: what it says is missing is, and what it says to do fixes it."""

import pytest

from tests.system.install.bare import Bare

pytestmark = [pytest.mark.timeout(1800), pytest.mark.install]

UNABLE = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


DO_APT = "apt-get install -y --no-install-recommends {}"


def kinds(lacks: dict[str, dict[str, str]]) -> dict[str, set[str]]:
    """For each use, what is missing, by the first word or two."""
    return {use: {what.split(":")[0] for what in found} for use, found in lacks.items()}


def test_root_on_a_bare_system(system: Bare) -> None:
    lacks = system.doctor()
    assert kinds(lacks) == {
        "build": {"not installed", "libparted cannot be loaded"},
        "flash": {"not installed", "libparted cannot be loaded"},
        "backup": {"not installed", "libparted cannot be loaded"},
        "station": {"not installed", "libparted cannot be loaded"},
        "boot": {"not installed", "libparted cannot be loaded"},
    }
    assert all("sudo" not in fix for found in lacks.values() for fix in found.values())
    system.fix({use: lacks[use] for use in ("build", "flash")})
    assert set(system.doctor()) == {"boot"}
    system.fix(system.doctor("boot"))
    assert system.doctor() == {}
    assert (
        system.good("ls -A /run/piimg; losetup --list --output BACK-FILE | grep -c piimg-doctor || true")
        == "0\n"
    )


def test_a_system_with_next_to_no_devices(system: Bare) -> None:
    """The nodes are made, by root and for root, and for an ordinary user."""
    system.fix(system.doctor("build flash"))
    root = system.doctor("build", devices="own")
    assert list(root["build"]) == ["/dev/loop-control is missing"]
    system.fix(root, devices="own")
    assert system.doctor("build flash", devices="own") == {}
    user = system.doctor("build", devices="own", user="alice")
    assert set(user["build"]) == {"not installed: fuse2fs, fuse3"}
    system.fix(user, devices="own")
    for missing in ("/etc/mtab is missing", "/dev/fuse is missing"):
        user = system.doctor("build", devices="own", user="alice")
        assert list(user["build"]) == [missing]
        system.fix(user, devices="own")
    assert system.doctor("build", devices="own", user="alice") == {}


def test_a_chroot_without_the_folders_of_the_kernel(system: Bare) -> None:
    system.fix(system.doctor("build flash"))
    lacks = system.doctor("build flash", kernel=False)
    for use in ("build", "flash"):
        assert list(lacks[use]) == ["/proc is empty", "/sys is empty"]
    assert system.doctor("build flash", kernel=False, before="\n".join(lacks["build"].values())) == {}


@pytest.mark.parametrize("sudo", [False, True], ids=["su", "sudo"])
def test_a_user_without_root(system: Bare, sudo: bool) -> None:
    """Commands are run as the user runs them where there is sudo; where there is none, su is root's here."""
    if sudo:
        system.good("apt-get update -qq; apt-get install -y -qq --no-install-recommends sudo")
        system.good("echo 'alice ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/alice")
    runner = "alice" if sudo else "root"
    lacks = system.doctor("build flash", user="alice")
    assert kinds(lacks) == {
        "build": {"not installed", "libparted cannot be loaded"},
        "flash": {
            "not installed",
            "libparted cannot be loaded",
            "this user has no permission to write to cards",
        },
    }
    for found in lacks.values():
        assert all(("sudo " if sudo else "su - -c ") in fix for fix in found.values())
    rights = lacks["flash"].pop("this user has no permission to write to cards")
    system.fix(lacks, user=runner)
    system.fix(system.doctor("build", user="alice"), user=runner)  # /etc/mtab, which comes with systemd
    assert kinds(system.doctor("build flash", user="alice")) == {
        "flash": {"this user has no permission to write to cards"}
    }
    if sudo:
        assert rights.startswith("sudo piimg flash …; or, permanently, ")
        assert system.good("sudo piimg doctor flash", user="alice").startswith("flash: ready\n")
    system.good(rights.rpartition("permanently, ")[2].removesuffix(" and log in again"), user=runner)
    assert system.doctor("build flash", user="alice") == {}


def test_a_container_without_privileges(system: Bare) -> None:
    """Root in it is asked to start it otherwise, or to be somebody else, for whom it is enough."""
    system.fix(system.doctor("build"))
    system.good("touch /run/.containerenv; apt-get install -y -qq fuse2fs fuse3")
    [(what, fix)] = system.doctor("build", drop=UNABLE)["build"].items()
    assert what == "this root user may not mount file systems"
    assert fix.startswith("start the container as root and with --privileged")
    assert fix.endswith("or run piimg as a user other than root")
    assert system.doctor("build") == {}  # with privileges
    system.good("ln -s ../proc/self/mounts /etc/mtab")  # as in any container
    assert system.doctor("build", user="alice") == {}


def test_a_container_that_was_given_no_devices(system: Bare) -> None:
    system.fix(system.doctor("build"))
    system.good("touch /run/.containerenv")
    assert system.doctor("build", devices="own") == {
        "build": {"/dev/loop-control is missing": "start the container as root and with --privileged"}
    }


def test_a_disk_that_is_too_small(system: Bare) -> None:
    system.fix(system.doctor("build"))
    [(what, fix)] = system.doctor("build", room="2g")["build"].items()
    assert what == "/home/root has 2.0 GiB free; building needs about 8 GiB"
    assert "--output" in fix
    elsewhere = "mkdir /roomy; mount -t tmpfs -o size=20g tmpfs /roomy; cd /roomy; export PIIMG_CACHE=/roomy"
    assert system.doctor("build", room="2g", before=elsewhere) == {}


def test_a_library_that_is_gone(system: Bare) -> None:
    system.fix(system.doctor("flash"))
    system.good("mkdir /gone; mv /usr/lib/*/libudev.so.1* /gone")
    parted, udev = system.doctor("flash")["flash"].items()  # libparted asks libudev, too
    assert "libudev.so.1: cannot open" in parted[0]
    assert udev == ("libudev cannot be loaded", DO_APT.format("libudev1"))
    system.good("mv /gone/* /usr/lib/$(uname -m)-linux-gnu/")
    assert system.doctor("flash") == {}
