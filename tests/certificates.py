"""Certificates for the tests of what speaks TLS."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
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


class Authority:
    """Signs certificates; `cert` is its own."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"authority {name}")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        built = self._builder(self._subject, self._key.public_key(), 1).add_extension(constraints, critical=True)
        self.cert = directory / f"{name}.pem"
        self.cert.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, serial: int) -> Pair:
        """A certificate for a host's or a client's name, also at 127.0.0.1, and its key (PKCS#8)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        built = self._builder(subject, key.public_key(), serial).add_extension(
            x509.SubjectAlternativeName(names), critical=False
        )
        pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        found = Pair(self._directory / f"{self._name}-{serial}.pem", self._directory / f"{self._name}-{serial}.key")
        found.cert.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(pem))
        found.key.write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()))
        return found

    def server(self, name: str, serial: int) -> ssl.SSLContext:
        """Of a server that trusts what this authority has signed."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.cert)
        context.load_cert_chain(*self.issue(name, serial))
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, serial: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
            .not_valid_after(datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC))
        )
