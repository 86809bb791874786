"""Files with certificates of authorities: what is taken from them, and what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.errors import UsageError
from imagebuilder.keys.certificates import certificates_in
from tests.support.certificates import authority, issue

HOME, OTHER = authority("home"), authority("other")
SERVER = issue("server", HOME)


def test_each_certificate_of_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "all.pem"
    file.write_bytes(b"# home\n" + HOME.pem.replace(b"\n", b"\r\n") + b"\nsubject=...\n" + OTHER.pem.rstrip())
    assert certificates_in(file) == (HOME.pem.decode(), OTHER.pem.decode())


def test_a_certificate_that_signs_itself_is_taken(tmp_path: Path) -> None:
    alone = issue("alone", None)
    (tmp_path / "a").write_bytes(alone.pem)
    assert certificates_in(tmp_path / "a") == (alone.pem.decode(),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read .*: No such file"),
        (b"", "has no certificate in PEM form"),
        (HOME.der, "has no certificate in PEM form"),
        (HOME.pem + HOME.private, "has a private key, which must not reach a card"),
        (HOME.pem + SERVER.pem, "certificate 2 is not that of an authority: it was issued by CN=home"),
        (HOME.pem.replace(b"MII", b"AAA", 1), "certificate 1 is damaged"),
        (HOME.pem[:200] + b"\n-----END CERTIFICATE-----\n", "certificate 1 is damaged"),
        (HOME.pem[:-30], "has no certificate in PEM form"),
    ],
)
def test_what_nobody_could_trust_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=said) as refused:
        certificates_in(file)
    assert refused.value.message.isprintable() and refused.value.hint
    assert ("openssl x509 -inform der" in refused.value.hint) == (content == HOME.der)


@given(st.binary(max_size=300), st.integers(0, len(HOME.pem)), st.integers(0, len(HOME.pem)))
def test_any_bytes_are_certificates_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, start: int, end: int
) -> None:
    file = tmp_path_factory.mktemp("any") / "ca.pem"
    for content in (noise, HOME.pem[:start] + noise + HOME.pem[end:]):
        file.write_bytes(content)
        try:
            found = certificates_in(file)
        except UsageError as error:
            assert error.message.isprintable()
            continue
        assert found and all(text.startswith("-----BEGIN CERTIFICATE-----\n") for text in found)
