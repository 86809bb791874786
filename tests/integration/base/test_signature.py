"""Signatures by real keys, made by gpg here, and the real one of Raspberry Pi, as judged by gpgv."""

import datetime
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuilder.base import signature, trust
from imagebuilder.base.catalogue import BaseImage, Trust
from imagebuilder.base.signature import SignatureResult, SignatureStatus
from imagebuilder.errors import PiimgError, UsageError
from imagebuilder.resources import shipped
from tests.integration.base.conftest import FETCHED, FETCHED_SHA256, Bench
from tests.support.checkout import DATA

KEY_2017 = "54C3DD610D9D1B4AF82A37758738CD6B956F460C"
KEY_2025 = "F4AADD86C4687D69AE04543E796C114AD12B2292"
SIG = "/base.img.xz.sig"


@dataclass(frozen=True)
class Signer:
    """A key of its own in a gpg home of its own."""

    home: Path
    fingerprint: str

    def gpg(self, *arguments: str | Path, data: bytes = b"") -> bytes:
        done = subprocess.run(
            ["gpg", "--homedir", self.home, "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments],
            input=data,
            capture_output=True,
            check=True,
        )
        return done.stdout

    def stop_agent(self) -> None:
        """gpg starts one by itself for each home."""
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "gpg-agent"], check=True)

    def sign(self, content: bytes, *more: str) -> bytes:
        return self.gpg("--armor", "--detach-sign", *more, "--output", "-", data=content)

    def export(self) -> bytes:
        return self.gpg("--armor", "--export", self.fingerprint)


def make_signer(home: Path, *more: str, expires: str = "never", algorithm: str = "ed25519") -> Signer:
    home.mkdir(mode=0o700)
    signer = Signer(home, "")
    signer.gpg("--passphrase", "", *more, "--quick-generate-key", "a test key", algorithm, "sign", expires)
    listed = signer.gpg("--with-colons", "--list-keys").decode()
    (fingerprint,) = [line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr")]
    return replace(signer, fingerprint=fingerprint)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Signer]]:
    if shutil.which("gpg") is None:
        pytest.skip("gpg is not installed (package gpg): no keys to sign with")
    folder = tmp_path_factory.mktemp("gpg")
    made = {name: make_signer(folder / name) for name in ("alice", "mallory")}
    made["past"] = make_signer(
        folder / "past", "--faked-system-time", "20200101T000000!", expires="20200601T000000"
    )
    made["old"] = make_signer(folder / "old", "--faked-system-time", "20200101T000000!")
    made["future"] = make_signer(folder / "future", "--faked-system-time", "20700101T000000!")
    made["sha1"] = make_signer(folder / "sha1", "--cert-digest-algo", "SHA1", algorithm="rsa2048")
    yield made
    for signer in made.values():
        signer.stop_agent()


@pytest.fixture
def alice(homes: dict[str, Signer]) -> Signer:
    return homes["alice"]


@pytest.fixture
def mallory(homes: dict[str, Signer]) -> Signer:
    return homes["mallory"]


def sign_and_pin(bench: Bench, signer: Signer, sig: bytes | None, *, trusted: bool = True) -> None:
    """Pin the base as signed by ``signer``, serve ``sig``, and (``trusted``) add the public key."""
    if sig is not None:
        bench.site.files[SIG] = sig
    if trusted:
        (bench.folder / "keys").mkdir(exist_ok=True)
        (bench.folder / "keys" / "alice.asc").write_bytes(signer.export())
    bench.pin(signature=bench.site.url + SIG, signed_by=[signer.fingerprint])


def test_a_good_signature_is_noted(bench: Bench, alice: Signer) -> None:
    sign_and_pin(bench, alice, alice.sign(FETCHED))
    bench.assert_fetches()
    assert bench.cache.records()[0].signer == alice.fingerprint
    assert bench.reporter.warnings == []


def test_a_key_in_the_user_s_own_folder_counts(bench: Bench, alice: Signer) -> None:
    sign_and_pin(bench, alice, alice.sign(FETCHED), trusted=False)
    keys = Path(os.environ["HOME"]) / ".config" / "piimg" / "keys"
    keys.mkdir(parents=True)
    (keys / "alice.asc").write_bytes(alice.export())
    bench.assert_fetches()
    assert bench.cache.records()[0].signer == alice.fingerprint


def test_a_wrong_signature_is_an_error_though_the_checksum_is_right(bench: Bench, alice: Signer) -> None:
    sign_and_pin(bench, alice, alice.sign(FETCHED + b"other"))
    with pytest.raises(PiimgError, match=f"BAD signature by {alice.fingerprint[-16:]}"):
        bench.fetch()
    bench.assert_nothing_final()
    bench.site.files[SIG] = alice.sign(FETCHED)
    bench.assert_fetches()


def test_a_signature_by_an_unknown_key_is_an_error(bench: Bench, alice: Signer, mallory: Signer) -> None:
    sign_and_pin(bench, alice, mallory.sign(FETCHED))
    with pytest.raises(PiimgError, match=f"unknown key, {mallory.fingerprint}") as caught:
        bench.fetch()
    assert alice.fingerprint in caught.value.hint
    bench.assert_nothing_final()


def test_a_known_key_that_may_not_sign_this_one_is_an_error(
    bench: Bench, alice: Signer, mallory: Signer
) -> None:
    sign_and_pin(bench, alice, mallory.sign(FETCHED))
    (bench.folder / "keys" / "mallory.asc").write_bytes(mallory.export())
    with pytest.raises(PiimgError, match=f"{mallory.fingerprint}, which may not sign it"):
        bench.fetch()
    bench.assert_nothing_final()


def test_one_good_signature_does_not_excuse_a_bad_one(bench: Bench, alice: Signer) -> None:
    binary = [
        subprocess.run(
            ["gpg", "--dearmor"], input=alice.sign(content), capture_output=True, check=True
        ).stdout
        for content in (FETCHED, b"other")
    ]
    sign_and_pin(bench, alice, b"".join(binary))
    with pytest.raises(PiimgError, match="BAD signature"):
        bench.fetch()
    bench.assert_nothing_final()


def test_a_missing_signature_is_a_warning_with_a_pin(bench: Bench, alice: Signer) -> None:
    sign_and_pin(bench, alice, None)
    bench.assert_fetches()
    assert bench.reporter.warnings == ["its signature is missing; its checksum (pinned) is right"]


def test_an_expected_key_that_is_not_here_is_a_warning_with_a_pin(bench: Bench, alice: Signer) -> None:
    sign_and_pin(bench, alice, alice.sign(FETCHED), trusted=False)
    bench.assert_fetches()
    (warning,) = bench.reporter.warnings
    assert f"{alice.fingerprint}, is not here" in warning
    assert bench.cache.records()[0].signer == ""


def test_an_expired_key_is_a_warning_with_a_pin(bench: Bench, homes: dict[str, Signer]) -> None:
    past = homes["past"]
    sign_and_pin(bench, past, past.sign(FETCHED, "--faked-system-time", "20200201T000000!"))
    bench.assert_fetches()
    (warning,) = bench.reporter.warnings
    assert f"{past.fingerprint}, has expired" in warning


def add_key(bench: Bench, signer: Signer) -> None:
    """As docs/base-images.md says: a key the user adds may sign any image."""
    (bench.folder / "keys").mkdir(exist_ok=True)
    (bench.folder / "keys" / "own.asc").write_bytes(signer.export())


def fetch_own(bench: Bench, sig: bytes, *, pinned: bool) -> list[str]:
    """Fetch a local file with ``sig`` beside it; the warnings."""
    (bench.folder / "own.img.xz").write_bytes(FETCHED)
    (bench.folder / "own.img.xz.sig").write_bytes(sig)
    (bench.folder / "own.img.xz.sha256").write_text(f"{FETCHED_SHA256}  own.img.xz\n")
    bench.fetch("./own.img.xz", sha256=FETCHED_SHA256 if pinned else "")
    return bench.reporter.warnings


PAST = ("--faked-system-time", "20200201T000000!")


@pytest.mark.parametrize("signed_by", [True, False], ids=["named", "the user's"])
def test_an_expired_key_of_the_user_is_said_to_have_expired(
    bench: Bench, homes: dict[str, Signer], signed_by: bool
) -> None:
    past = homes["past"]
    add_key(bench, past)
    sig = past.sign(FETCHED, *PAST)
    if signed_by:
        sign_and_pin(bench, past, sig)
        bench.fetch()
        (warning,) = bench.reporter.warnings
    else:
        with pytest.raises(PiimgError, match=f"{past.fingerprint}, has expired, and its checksum") as caught:
            fetch_own(bench, sig, pinned=False)
        assert "keys/" not in caught.value.hint
        (warning,) = fetch_own(bench, sig, pinned=True)
    assert (
        warning == f"the key that signed it, {past.fingerprint}, has expired; its checksum (pinned) is right"
    )


def test_an_expired_signature_is_said_to_have_expired(bench: Bench, homes: dict[str, Signer]) -> None:
    signer = homes["old"]
    add_key(bench, signer)
    sig = signer.sign(FETCHED, *PAST, "--default-sig-expire", "30d")
    with pytest.raises(PiimgError, match=f"its signature, by {signer.fingerprint}, has expired, and"):
        fetch_own(bench, sig, pinned=False)
    (warning,) = fetch_own(bench, sig, pinned=True)
    assert "has expired; its checksum (pinned) is right" in warning
    assert bench.cache.records()[0].signer == ""


def test_an_expired_signature_over_another_file_is_bad(bench: Bench, homes: dict[str, Signer]) -> None:
    signer = homes["old"]
    add_key(bench, signer)
    with pytest.raises(PiimgError, match="BAD signature"):
        fetch_own(bench, signer.sign(b"other", *PAST, "--default-sig-expire", "30d"), pinned=True)


def test_an_expired_key_that_may_not_sign_is_an_error(
    bench: Bench, homes: dict[str, Signer], alice: Signer
) -> None:
    past = homes["past"]
    add_key(bench, past)
    sign_and_pin(bench, alice, past.sign(FETCHED, *PAST))
    with pytest.raises(PiimgError, match=f"{past.fingerprint}, which may not sign it"):
        bench.fetch()


@pytest.mark.parametrize("name", ["alice", "sha1"])
def test_a_signature_or_key_by_sha1_is_too_weak(bench: Bench, homes: dict[str, Signer], name: str) -> None:
    """alice's key is good, and she signs by SHA-1; the other key's own signature is by SHA-1."""
    signer = homes[name]
    add_key(bench, signer)
    how = ["--digest-algo", "SHA1"] if name == "alice" else []
    with pytest.raises(PiimgError, match=f"by {signer.fingerprint}, is too weak: .*not pinned") as caught:
        fetch_own(bench, signer.sign(FETCHED, *how), pinned=False)
    assert "BAD" not in caught.value.message and "changed" not in caught.value.hint
    (warning,) = fetch_own(bench, signer.sign(FETCHED, *how), pinned=True)
    assert "too weak" in warning and "SHA-1" in warning
    assert bench.cache.records()[0].signer == ""
    with pytest.raises(PiimgError, match="BAD signature"):
        fetch_own(bench, signer.sign(b"other", *how), pinned=True)


def test_a_key_from_the_future_points_at_the_clock(bench: Bench, homes: dict[str, Signer]) -> None:
    signer = homes["future"]
    add_key(bench, signer)
    sig = signer.sign(FETCHED, "--faked-system-time", "20700201T000000!")
    with pytest.raises(PiimgError, match=f"{signer.fingerprint}, cannot be used: check this machine's clock"):
        fetch_own(bench, sig, pinned=False)


def test_one_weak_signature_beside_a_good_one_does_no_harm(bench: Bench, alice: Signer) -> None:
    binary = [alice.sign(FETCHED, "--no-armor", *how) for how in (("--digest-algo", "SHA1"), ())]
    add_key(bench, alice)
    assert fetch_own(bench, b"".join(binary), pinned=True) == []
    assert bench.cache.records()[0].signer == alice.fingerprint


def test_an_algorithm_that_gpgv_does_not_have_is_no_bad_signature() -> None:
    line = "[GNUPG:] ERRSIG 3F00CA50477FCEC5 99 8 00 1796040882 4 -"
    assert signature.findings(line) == [SignatureResult(SignatureStatus.UNSUPPORTED, "3F00CA50477FCEC5")]


def test_a_revoked_key_is_an_error(bench: Bench, tmp_path: Path, homes: dict[str, Signer]) -> None:
    signer = make_signer(tmp_path / "revoked")
    sig = signer.sign(FETCHED)
    certificate = tmp_path / "revoked" / "openpgp-revocs.d" / f"{signer.fingerprint}.rev"
    signer.gpg("--import", data=certificate.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))
    sign_and_pin(bench, signer, sig)
    with pytest.raises(PiimgError, match=f"revoked key {signer.fingerprint}"):
        bench.fetch()
    bench.assert_nothing_final()
    signer.stop_agent()


@pytest.mark.parametrize("sig", [b"", b"<html>", b"-----BEGIN PGP SIGNATURE-----\n\n!!\n"])
def test_what_is_no_signature_is_an_error(bench: Bench, alice: Signer, sig: bytes) -> None:
    sign_and_pin(bench, alice, sig)
    with pytest.raises(PiimgError, match="not an OpenPGP signature"):
        bench.fetch()
    bench.assert_nothing_final()


def test_unproven_and_unpinned_is_refused(bench: Bench, tmp_path: Path, alice: Signer) -> None:
    """A checksum from the image's own server does not stand in for a signature that ought to be there."""
    image = BaseImage(
        name="base", signature=f"{bench.site.url}/none.sig", sha256="0" * 64, trust=Trust.UNPROVEN
    )
    with pytest.raises(PiimgError, match="its signature is missing, and its checksum is not pinned"):
        trust.check_signature(image, tmp_path, [], bench.reporter, insecure=False)
    assert trust.check_signature(image, tmp_path, [], bench.reporter, insecure=True) == ""


def test_a_signature_beside_a_local_file_is_checked(bench: Bench, tmp_path: Path, alice: Signer) -> None:
    path = tmp_path / "own.img.xz"
    path.write_bytes(FETCHED)
    (tmp_path / "own.img.xz.sig").write_bytes(alice.sign(FETCHED + b"other"))
    (bench.folder / "keys").mkdir()
    (bench.folder / "keys" / "alice.asc").write_bytes(alice.export())
    with pytest.raises(PiimgError, match="BAD signature"):
        bench.fetch(str(path), insecure=True)
    (tmp_path / "own.img.xz.sig").write_bytes(alice.sign(FETCHED))
    bench.fetch(str(path), insecure=True)
    assert bench.cache.records()[0].signer == alice.fingerprint


def test_raspberry_pi_s_own_signature_names_its_key(tmp_path: Path) -> None:
    """The image it signs is too large for a test: over another file it must be bad, by exactly that key."""
    sig = (DATA / "2025-05-13-raspios-bookworm-armhf-lite.img.xz.sig").read_bytes()
    file = tmp_path / "file"
    file.write_bytes(b"something else")
    keys = signature.key_files(None)
    assert keys[0].name == "raspberrypi-downloads-2017.asc"
    assert signature.check(file, sig, keys) == [SignatureResult(SignatureStatus.BAD, KEY_2017[-16:])]
    assert signature.check(file, sig, []) == [SignatureResult(SignatureStatus.NO_KEY, KEY_2017)]


@pytest.mark.parametrize(
    ("date", "fingerprints"),
    [
        (datetime.date(2025, 5, 13), (KEY_2017,)),
        (datetime.date(2025, 11, 23), (KEY_2017,)),
        (datetime.date(2025, 11, 24), (KEY_2017, KEY_2025)),
        (datetime.date(2031, 4, 8), (KEY_2025,)),
        (None, (KEY_2017, KEY_2025)),
    ],
)
def test_which_keys_sign_depends_on_the_date(
    date: datetime.date | None, fingerprints: tuple[str, ...]
) -> None:
    image = BaseImage(name="x", date=date)
    assert signature.expected(image) == fingerprints
    for key in (KEY_2017, KEY_2025):
        assert signature.acceptable(key, image) == (key in fingerprints)
        assert signature.is_expected(key[-16:], image) == (key in fingerprints)


def test_dearmoring_agrees_with_gpg(alice: Signer, tmp_path: Path) -> None:
    for armored in (
        alice.export(),
        (shipped("manifests") / "keys" / "raspberrypi-downloads-2017.asc").read_bytes(),
    ):
        expected = subprocess.run(["gpg", "--dearmor"], input=armored, capture_output=True, check=True).stdout
        assert signature.dearmored(armored.decode()) == expected


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!!\n-----END PGP"]
)
def test_a_key_file_that_is_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.asc"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.asc"):
        signature.check(path, b"", [path])


_WORDS = ["[GNUPG:]", "VALIDSIG", "ERRSIG", "BADSIG", "NEWSIG", "9", "-", "A"]


@given(st.text() | st.lists(st.sampled_from(_WORDS)).map(" ".join))
def test_any_status_text_can_be_read(text: str) -> None:
    for finding in signature.findings(text):
        json.dumps([finding.verdict, finding.key])
