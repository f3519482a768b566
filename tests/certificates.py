"""A certificate for the tests of what serves by TLS."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Pair(NamedTuple):
    cert: Path
    key: Path


def self_signed(directory: Path) -> Pair:
    """A certificate for `localhost` that signs itself, valid long before and after any test, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC))
        .sign(key, hashes.SHA256())
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    found = Pair(directory / "cert.pem", directory / "key.pem")
    found.cert.write_bytes(certificate.public_bytes(pem))
    found.key.write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()))
    return found
