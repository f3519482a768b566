"""Kafka's security properties, by librdkafka's names as the settings have them, as aiokafka's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..certificates import ClientContext, kafka_files

_NAMES = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
}


def client_arguments(security: Mapping[str, str]) -> dict[str, Any]:
    """Return keyword arguments of aiokafka's clients; TLS is 1.2 or later, and the broker's name is verified."""
    found: dict[str, Any] = {ours: security[theirs] for theirs, ours in _NAMES.items() if theirs in security}
    if found.get("security_protocol", "").endswith("SSL"):
        found["ssl_context"] = ClientContext(*kafka_files(security))
    return found
