"""Kafka's security settings reach aiokafka whole."""

from __future__ import annotations

import ssl

from pipeline.worker.security import client_arguments


def test_nothing_given_is_plaintext() -> None:
    assert client_arguments({}) == {}


def test_sasl_over_tls() -> None:
    found = client_arguments(
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "worker",
            "sasl.password": "secret",
        }
    )
    context = found.pop("ssl_context")
    assert found == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "worker",
        "sasl_plain_password": "secret",
    }
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
