"""A worker against a real broker with SASL_SSL, client certificates and an authorizer, with the rights of the manual.

The tests' own clients use a second listener, in clear on loopback, as a super user. Mutations seen red (both were
bugs): the topics' ids are asked for in clear; Faust's own producer connects, in clear; certificates are read once; what
librdkafka says of a group that nobody joins is taken to heart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from pipeline.adapters.brokers.local import LocalBroker
from pipeline.adapters.brokers.process import free_ports
from pipeline.adapters.topics import apply, specs
from pipeline.demo.story import events
from tests.certificates import Authority, Pair
from tests.integration.pipeline_stage import Pipeline, account
from tests.integration.tools import ending, wait_for

pytestmark = pytest.mark.broker

PREFIX, PASSWORD = "transit.", "correct-horse"
RIGHTS = {
    ResourceType.TOPIC: (
        AclOperation.READ,
        AclOperation.WRITE,
        AclOperation.DESCRIBE,
        AclOperation.DESCRIBE_CONFIGS,
    ),
    ResourceType.GROUP: (AclOperation.READ, AclOperation.DESCRIBE),
}
"""Of a worker's user, as docs/operations.md says."""


def broker_config(tls_port: int, authority: Authority, shown: Pair) -> dict[str, str]:
    keystore = shown.cert.with_suffix(".keystore.pem")
    keystore.write_bytes(shown.key.read_bytes() + shown.cert.read_bytes())
    listener = "listener.name.sasl_ssl."
    return {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{tls_port},"
        "CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{tls_port}",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # the listeners in clear
        f"{listener}sasl.enabled.mechanisms": "SCRAM-SHA-512",
        f"{listener}scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        f"{listener}ssl.client.auth": "required",
        f"{listener}ssl.keystore.type": "PEM",
        f"{listener}ssl.keystore.location": str(keystore),
        f"{listener}ssl.truststore.type": "PEM",
        f"{listener}ssl.truststore.location": str(authority.cert),
    }


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline whose commands and workers go by TLS; `bootstrap` is the listener in clear."""
    authority = Authority(tmp_path, "ca")
    (tls_port,) = free_ports(1)
    config = broker_config(tls_port, authority, authority.issue("localhost", 2))
    client, _ = authority.issue("worker", 3), authority.issue("worker", 4)
    with LocalBroker.started(config, lambda _: None) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        wait_for(lambda: answers(admin), 60, "the broker answers")
        secret = UserScramCredentialUpsertion(
            "worker", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode()
        )
        for user in admin.alter_user_scram_credentials([secret]).values():
            user.result(30)
        acls = [
            AclBinding(
                resource, PREFIX, ResourcePatternType.PREFIXED, "User:worker", "*", right, AclPermissionType.ALLOW
            )
            for resource, rights in RIGHTS.items()
            for right in rights
        ]
        for acl in admin.create_acls(acls).values():
            acl.result(30)
        apply(broker.bootstrap, {}, specs(4, 1, prefix=PREFIX))
        yield Pipeline(
            broker.bootstrap,
            PREFIX,
            tmp_path,
            SEALSTREAM_KAFKA=f"localhost:{tls_port}",
            SEALSTREAM_KAFKA_SECURITY="SASL_SSL",
            SEALSTREAM_KAFKA_USERNAME="worker",
            SEALSTREAM_KAFKA_PASSWORD=PASSWORD,
            SEALSTREAM_KAFKA_CA_FILE=str(authority.cert),
            SEALSTREAM_KAFKA_CERT_FILE=str(client.cert),
            SEALSTREAM_KAFKA_CERT_KEY_FILE=str(client.key),
        )


def answers(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=5).brokers)
    except KafkaException:
        return False


def test_who_reads_kafka_by_librdkafka_goes_on_with_certificates_that_were_replaced(
    secured: Pipeline, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    told = "a certificate was replaced"
    worker = secured.worker("protect")
    server = secured.launch(["-m", "pipeline", "serve"], state="serve", SEALSTREAM_SERVE=f"127.0.0.1:{port}")
    with ending(worker), ending(server):
        wait_for(lambda: "partitions assigned" in worker.log and "caught up" in server.log, 60, "both run")
        registered = secured.command("sources", "add", "kiosk")
        assert registered.returncode == 0, registered.stderr
        for part in ("pem", "key"):
            (tmp_path / f"ca-4.{part}").replace(tmp_path / f"ca-3.{part}")
        wait_for(lambda: told in worker.log and told in server.log, 30, "both have seen it")
        secured.produce(events(7, 50, 4, int(time.time() * 1000)))
        secured.wait(60, "protect")
        assert "the stream waits" not in worker.log
        assert "waiting" not in server.log
        assert worker.terminate() == 0, worker.log
        assert server.terminate() == 0, server.log


def test_a_worker_signs_in_by_tls_and_needs_no_more_than_the_rights_of_the_manual(secured: Pipeline) -> None:
    sent = secured.produce(events(7, 500, 40, int(time.time() * 1000)))
    worker = secured.worker()
    with ending(worker):
        secured.wait()
        protected, rejected = account(secured)
        assert len(protected) + len(rejected) == sent
        assert worker.terminate() == 0, worker.log
    assert "not encrypted" not in worker.log
    assert secured.profiles() == secured.recomputed()

    for name in ("SEALSTREAM_KAFKA_CERT_FILE", "SEALSTREAM_KAFKA_CERT_KEY_FILE"):
        del secured.env[name]
    assert secured.command("topics", "apply").returncode == 3, "without a certificate"
