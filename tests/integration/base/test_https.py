"""Over TLS: a certificate that is not valid, and redirects down to plain http."""

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from imagebuilder.errors import PiimgError
from tests.integration.base import site as faults
from tests.integration.base.conftest import FETCHED, FETCHED_SHA256, IMAGE_SHA256, Bench
from tests.integration.base.site import Site, serving

BASE = "/base.img.xz"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "site.pem"
    path.write_bytes(secret + made.public_bytes(pem))
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context) as site:
        site.files[BASE] = FETCHED
        yield site


@pytest.fixture
def trusting(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))


def test_an_invalid_certificate_is_an_error_at_once(bench: Bench, secure: Site) -> None:
    with pytest.raises(PiimgError, match="certificate is not valid") as caught:
        bench.fetch(secure.url + BASE, sha256=FETCHED_SHA256)
    assert "clock" in caught.value.hint
    assert secure.seen == []
    bench.assert_nothing_final()


def test_a_valid_certificate(bench: Bench, secure: Site, trusting: None) -> None:
    bench.assert_fetches(secure.url + BASE, sha256=FETCHED_SHA256)


def test_down_to_http_is_refused_without_a_pin(bench: Bench, secure: Site, trusting: None) -> None:
    bench.site.files[BASE] = FETCHED
    secure.faults[BASE] += [faults.redirect(bench.site.url + BASE)]
    with pytest.raises(PiimgError, match="redirects from https to plain http: refused"):
        bench.fetch(secure.url + BASE, insecure=True)
    assert bench.site.seen == []
    bench.assert_nothing_final()


def test_down_to_http_is_followed_with_a_pin(bench: Bench, secure: Site, trusting: None) -> None:
    bench.site.files[BASE] = FETCHED
    secure.faults[BASE] += [faults.redirect(bench.site.url + BASE)]
    assert bench.fetch(secure.url + BASE, sha256=FETCHED_SHA256).digest == IMAGE_SHA256
    assert len(bench.site.of(BASE)) == 1


def test_a_checksum_is_never_taken_down_to_http(bench: Bench, secure: Site, trusting: None) -> None:
    secure.faults[f"{BASE}.sha256"] += [faults.redirect(f"{bench.site.url}{BASE}.sha256")]
    bench.site.files[f"{BASE}.sha256"] = FETCHED_SHA256.encode()
    with pytest.raises(PiimgError, match="redirects from https to plain http"):
        bench.fetch(secure.url + BASE)
    assert bench.site.seen == []
