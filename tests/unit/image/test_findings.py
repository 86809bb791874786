"""What a base image is refused for, in one error."""

from imagebuilder.image.base.findings import KINDS, Finding, Weight, refusal

WARNED = Finding("home", "UID 1000 lives elsewhere", "piimg follows it")
LAYOUT = Finding("layout", "1 partition instead of two", "name another base image")
SSHD = Finding("sshd", "there is no ssh.service", "install openssh-server")


def test_each_kind_has_one_weight() -> None:
    assert {LAYOUT.weight, SSHD.weight} == {Weight.REFUSED} and WARNED.weight is Weight.WARNED
    assert set(KINDS.values()) == set(Weight)


def test_what_is_only_warned_of_refuses_nothing() -> None:
    assert refusal("base.img", []) is None
    assert refusal("base.img", [WARNED]) is None


def test_one_reason_is_the_error() -> None:
    error = refusal("base.img", [WARNED, LAYOUT])
    assert error is not None
    assert (error.message, error.hint) == ("base.img: 1 partition instead of two", "name another base image")


def test_several_reasons_are_all_listed() -> None:
    error = refusal("base.img", [LAYOUT, WARNED, SSHD])
    assert error is not None and error.message == "base.img cannot be used, for 2 reasons"
    assert error.hint.splitlines() == [
        "layout: 1 partition instead of two: name another base image",
        "sshd: there is no ssh.service: install openssh-server",
    ]
    assert LAYOUT.document()["weight"] == "refused"
