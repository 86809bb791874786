"""Numbers of system accounts: the same for the same name, whatever else is installed."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.dressing import accounts

BASE = (b"root:x:0:0:root:/root:/bin/bash\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n", b"root:x:0:\n")
NAMES = st.lists(st.from_regex(r"_?[a-z][a-z0-9]{0,8}", fullmatch=True), unique=True, max_size=8)


def after(names: Sequence[str]) -> tuple[bytes, bytes]:
    """passwd and group when adduser has made ``names`` in this order."""
    passwd, group = BASE
    for number, name in enumerate(names, start=102):
        passwd += f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n".encode()
        group += f"{name}:x:{number}:\n".encode()
    return passwd, group


def test_the_number_depends_on_the_name_only() -> None:
    alone = accounts.renumbering(BASE, after(["munge"])).names["munge"]
    assert accounts.renumbering(BASE, after(["statd", "_chrony", "munge"])).names["munge"] == alone
    assert alone in accounts.CHOSEN


def test_the_files_get_the_new_numbers() -> None:
    passwd, group = after(["munge"])
    numbers = accounts.renumbering(BASE, (passwd, group))
    number = numbers.names["munge"]
    assert numbers.users == {102: number} and numbers.groups == {102: number}
    assert f"munge:x:{number}:{number}::".encode() in accounts.with_numbers(passwd, numbers, group=False)
    assert f"munge:x:{number}:\n".encode() in accounts.with_numbers(group, numbers, group=True)
    assert BASE[0] in accounts.with_numbers(passwd, numbers, group=False)


def test_fixed_numbers_and_those_of_the_base_stay() -> None:
    passwd = BASE[0] + b"slurm:x:64030:64030::/:/bin/false\npi:x:1000:1000::/home/pi:/bin/bash\n"
    assert not accounts.renumbering(BASE, (passwd, BASE[1])).names


@given(NAMES)
def test_no_two_accounts_get_one_number(names: list[str]) -> None:
    numbers = accounts.renumbering(BASE, after(names)).names
    assert len({*numbers.values()}) == len(numbers)
    assert not {*numbers.values()} & {*accounts.ids(BASE[0]).values()}


@given(st.binary(), st.binary())
def test_any_content_is_read_without_a_fault(passwd: bytes, group: bytes) -> None:
    numbers = accounts.renumbering(BASE, (passwd, group))
    accounts.with_numbers(passwd, numbers, group=False)
