"""How brokers are reached and how topics are made: TLS, SASL, ACLs, and what is said where one of them is wrong."""

from __future__ import annotations

import base64
import json
import random
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer

from config.errors import BadSetting
from config.kafka import KafkaSettings
from config.settings import Settings
from console import check_kafka
from console.check import Status
from console.compose import Deployment
from console.kafka_parts import KafkaParts
from console.publishing import KafkaEvents
from intake.kafka import diagnosis, topics
from intake.kafka.clients import connected
from intake.kafka.diagnosis import asking
from intake.kafka.errors import BadTopic, BrokerAway, NotAllowed
from intake.kafka.options import KafkaOptions
from intake.kafka.publisher import Outgoing, Publisher, Refusal
from intake.kafka.topics import Wanted
from storage.database import Database
from tests.integration.publishing import codes
from tests.servers.kafka import Kafka
from tests.servers.kafka_secured import PASSWORD, SecuredKafka, allow
from tests.servers.leashed import free_port, wait_until
from worker import publisher as relay_publisher
from worker.health import Health
from worker.metrics import Metrics


def options_of(**settings: Any) -> KafkaOptions:
    options = KafkaOptions.of(KafkaSettings(**settings))
    assert options is not None
    return options


@pytest.fixture(scope="module")
def secured() -> Iterator[Kafka]:
    """A broker with users and ACLs; reached by its plaintext port for whatever the test itself does."""
    with SecuredKafka() as server:
        kafka = Kafka(server)
        server.add_scram_users(kafka)
        yield kafka
        kafka.close()


def listener(secured: Kafka, name: str) -> dict[str, Any]:
    """Settings: the address of a listener of the secured broker, and its authority."""
    assert isinstance(secured.server, SecuredKafka)
    return {"kafka_bootstrap": secured.server.at(name), "kafka_ssl_ca": secured.server.authority.ca}


def authority(secured: Kafka) -> Any:
    assert isinstance(secured.server, SecuredKafka)
    return secured.server.authority


def login(secured: Kafka, user: str, mechanism: str = "PLAIN", password: str = PASSWORD) -> dict[str, Any]:
    return {
        **listener(secured, "SASL"),
        "kafka_security": "sasl_plaintext",
        "kafka_sasl_mechanism": mechanism,
        "kafka_username": user,
        "kafka_password": password,
    }


def unsigned_token(subject: str, lifetime_s: int = 3600) -> str:
    """A token as the broker of the tests takes it: signed by nobody."""
    parts = [{"alg": "none"}, {"sub": subject, "iat": time.time(), "exp": time.time() + lifetime_s}]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


@pytest.fixture
def token_server() -> Iterator[str]:
    """The URL of a server that gives everybody a token for alice; one of yesterday with `?expired`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            token = unsigned_token("alice", -60 if "expired" in self.path else 3600)
            answer = json.dumps({"access_token": token, "expires_in": 3600}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()
        thread.join()


# Ways in


def test_tls_is_spoken_with_the_authority_of_the_settings(secured: Kafka) -> None:
    options = options_of(**listener(secured, "TLS"), kafka_security="ssl")
    assert topics.cluster_id(options) == secured.server.cluster_id


def test_a_broker_that_wants_a_certificate_gets_ours(secured: Kafka) -> None:
    certificate, key = authority(secured).vouch("alice", password="opens the key")
    options = options_of(
        **listener(secured, "MUTUAL"),
        kafka_security="ssl",
        kafka_ssl_cert=certificate,
        kafka_ssl_key=key,
        kafka_ssl_key_password="opens the key",
    )
    assert topics.cluster_id(options) == secured.server.cluster_id


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("security", ["sasl_plaintext", "sasl_ssl"])
def test_a_user_logs_in(secured: Kafka, security: str, mechanism: str) -> None:
    at = listener(secured, "SASLTLS" if security == "sasl_ssl" else "SASL")
    options = options_of(**{**login(secured, "alice", mechanism), **at, "kafka_security": security})
    assert topics.cluster_id(options) == secured.server.cluster_id


def test_a_token_lets_us_in(secured: Kafka, token_server: str) -> None:
    name = secured.create("token")
    options = options_of(
        **listener(secured, "SASLTLS"),
        kafka_security="sasl_ssl",
        kafka_sasl_mechanism="OAUTHBEARER",
        kafka_oauth_token_url=token_server,
        kafka_oauth_client_id="mediamill",
        kafka_oauth_client_secret="secret",
    )
    assert topics.cluster_id(options) == secured.server.cluster_id
    with Publisher(options) as publisher:
        assert codes(publisher.publish([Outgoing(name, b"k", b"v")])) == [None]


# What is wrong is said


def said(error: type[Exception], options: KafkaOptions) -> str:
    with pytest.raises(error) as raised:
        topics.cluster_id(replace(options, connect_s=2.0))
    return str(raised.value)


def test_no_broker_at_the_address(secured: Kafka) -> None:
    port = free_port()
    message = said(BrokerAway, options_of(kafka_bootstrap=f"127.0.0.1:{port}"))
    assert f"127.0.0.1:{port} cannot be reached" in message
    assert "MEDIAMILL_KAFKA_BOOTSTRAP" in message


def test_a_host_that_does_not_exist() -> None:
    message = said(BrokerAway, options_of(kafka_bootstrap="no-such-host.invalid:9092"))
    assert message == "Kafka at no-such-host.invalid:9092: no such host; look at MEDIAMILL_KAFKA_BOOTSTRAP"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_wrong_password(secured: Kafka, mechanism: str) -> None:
    message = said(NotAllowed, options_of(**login(secured, "alice", mechanism, password="wrong")))
    assert "does not let us in; look at MEDIAMILL_KAFKA_USERNAME and MEDIAMILL_KAFKA_PASSWORD" in message
    assert "wrong" not in message


def test_no_tls_where_the_broker_speaks_it(secured: Kafka) -> None:
    message = said(BrokerAway, options_of(kafka_bootstrap=listener(secured, "TLS")["kafka_bootstrap"]))
    assert "speaks TLS; MEDIAMILL_KAFKA_SECURITY is plaintext, write ssl" in message


def test_tls_where_the_broker_does_not_speak_it(secured: Kafka) -> None:
    options = options_of(**{**listener(secured, "TLS"), "kafka_bootstrap": secured.bootstrap}, kafka_security="ssl")
    assert "does not speak TLS; MEDIAMILL_KAFKA_SECURITY is ssl" in said(BrokerAway, options)


def test_a_broker_whose_authority_we_do_not_know(secured: Kafka) -> None:
    options = options_of(kafka_bootstrap=listener(secured, "TLS")["kafka_bootstrap"], kafka_security="ssl")
    message = said(BrokerAway, options)
    assert "its certificate is not accepted" in message
    assert message.endswith("look at MEDIAMILL_KAFKA_SSL_CA")


def test_a_broker_that_is_called_otherwise_in_its_certificate(secured: Kafka) -> None:
    at = {**listener(secured, "TLS"), "kafka_security": "ssl"}
    at["kafka_bootstrap"] = at["kafka_bootstrap"].replace("127.0.0.1", "localhost")
    assert said(BrokerAway, options_of(**at)).endswith("look at MEDIAMILL_KAFKA_SSL_CHECK_HOSTNAME")
    assert topics.cluster_id(options_of(**at, kafka_ssl_check_hostname=False)) == secured.server.cluster_id


def test_no_certificate_where_the_broker_wants_one(secured: Kafka) -> None:
    options = options_of(**listener(secured, "MUTUAL"), kafka_security="ssl")
    assert "wants a certificate of ours that it knows; look at MEDIAMILL_KAFKA_SSL_CERT" in said(NotAllowed, options)


def test_no_name_where_the_broker_asks_for_it(secured: Kafka) -> None:
    message = said(NotAllowed, options_of(**listener(secured, "SASL")))
    assert "asks who we are; set MEDIAMILL_KAFKA_SECURITY to sasl_plaintext" in message
    assert "MEDIAMILL_KAFKA_SASL_MECHANISM" in message
    assert "SCRAM-SHA-512" in message


def test_a_name_where_the_broker_does_not_ask_for_it(secured: Kafka) -> None:
    options = options_of(**{**login(secured, "alice"), "kafka_bootstrap": secured.bootstrap})
    assert "does not ask who we are; MEDIAMILL_KAFKA_SECURITY is sasl_plaintext" in said(NotAllowed, options)


def test_a_token_server_that_is_away(secured: Kafka) -> None:
    url = f"http://127.0.0.1:{free_port()}/token"
    options = options_of(
        **listener(secured, "SASL"),
        kafka_security="sasl_plaintext",
        kafka_sasl_mechanism="OAUTHBEARER",
        kafka_oauth_token_url=url,
        kafka_oauth_client_id="mediamill",
        kafka_oauth_client_secret="secret",
    )
    assert f"MEDIAMILL_KAFKA_OAUTH_TOKEN_URL: {url} does not answer" in said(BrokerAway, options)


def test_a_token_that_the_broker_does_not_take(secured: Kafka, token_server: str) -> None:
    options = options_of(
        **listener(secured, "SASL"),
        kafka_security="sasl_plaintext",
        kafka_sasl_mechanism="OAUTHBEARER",
        kafka_oauth_token_url=f"{token_server}?expired",
        kafka_oauth_client_id="mediamill",
        kafka_oauth_client_secret="secret",
    )
    assert "does not let us in; look at MEDIAMILL_KAFKA_OAUTH_CLIENT_ID" in said(NotAllowed, options)


def test_who_waits_for_a_broker_gathers_no_threads() -> None:
    options = replace(options_of(kafka_bootstrap=f"127.0.0.1:{free_port()}"), connect_s=0.1)
    before = threading.active_count()
    for _ in range(3):
        with pytest.raises(BrokerAway):
            topics.cluster_id(options)
    assert threading.active_count() == before


# Topics


def wanted_of(kafka: Kafka, *names: str, **more: Any) -> list[Wanted]:
    fields = {"partitions": 2, "replication": -1, "retention_s": 3600.0, **more}
    return [Wanted(kafka.name(name), **fields) for name in names]


def test_missing_topics_are_made_as_the_settings_say(kafka: Kafka) -> None:
    dead = kafka.name("dead")
    more: dict[str, Any] = {"kafka_partitions": 3, "kafka_retention": 7200, "kafka_dead_letter_topic": dead}
    settings = KafkaSettings(**kafka.settings, **more)
    options = options_of(**kafka.settings)
    names = {kafka.name(name) for name in ("jobs.interactive", "jobs.upload", "jobs.backfill", "results", "dead")}
    assert {topic.name for topic in topics.wanted(settings)} == names
    assert set(topics.ensure(options, topics.wanted(settings), create=True)) == names
    assert all(kafka.partitions(name) == [0, 1, 2] for name in names)
    assert topics.retention(options, sorted(names)) == dict.fromkeys(names, 7200.0)
    assert topics.ensure(options, topics.wanted(settings), create=True) == []


def test_a_topic_that_exists_is_never_changed(kafka: Kafka) -> None:
    options, name = options_of(**kafka.settings), kafka.create("there", partitions=1, retention_ms=-1)
    made = topics.ensure(options, wanted_of(kafka, "there", "new", partitions=5), create=True)
    assert made == [kafka.name("new")]
    assert kafka.partitions(name) == [0]
    assert topics.retention(options, [name, kafka.name("missing")]) == {name: None}


def test_two_that_make_the_same_topics_at_once_are_harmless(kafka: Kafka) -> None:
    options, wanted = options_of(**kafka.settings), wanted_of(kafka, "a", "b", "c")
    made: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: made.append(topics.ensure(options, wanted, create=True))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert sorted(name for names in made for name in names) == sorted(topic.name for topic in wanted)


def test_a_missing_topic_that_may_not_be_made_is_named(kafka: Kafka) -> None:
    kafka.create("a")
    with pytest.raises(BadTopic, match=rf"missing in Kafka: {kafka.name('b')}; .*MEDIAMILL_KAFKA_CREATE_TOPICS"):
        topics.ensure(options_of(**kafka.settings), wanted_of(kafka, "a", "b"), create=False)
    assert kafka.topics() == {kafka.name("a")}


def test_more_replicas_than_brokers_is_said_with_the_setting(kafka: Kafka) -> None:
    with pytest.raises(BadTopic, match=rf"{kafka.name('a')} cannot be made: .*MEDIAMILL_KAFKA_REPLICATION"):
        topics.ensure(options_of(**kafka.settings), wanted_of(kafka, "a", replication=3), create=True)


def test_a_topic_that_is_made_anew_has_another_id(kafka: Kafka) -> None:
    options, name = options_of(**kafka.settings), kafka.create("there", partitions=2)
    first = topics.present(options, [name, kafka.name("missing")])
    assert list(first) == [name]
    assert first[name].partitions == (0, 1)
    assert isinstance(first[name].id, uuid.UUID)
    kafka.delete(name)
    kafka.create("there")
    assert topics.topic_ids(options, [name])[name] != first[name].id


# ACLs: the least that docs/operations.md names


def consumed(options: KafkaOptions, group: str, names: Sequence[str], count: int) -> list[bytes]:
    """As ingest does: by a group, with a commit."""
    with asking(options, "reading"):
        consumer = connected(
            KafkaConsumer,
            options,
            "test",
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
        )
        values: list[bytes] = []
        try:
            consumer.subscribe(list(names))
            while len(values) < count:
                values += [each.value for batch in consumer.poll(timeout_ms=200).values() for each in batch]
            consumer.commit()
        finally:
            consumer.close(autocommit=False)
    return values


def test_ingest_needs_read_of_the_lanes_topics_and_of_its_group(secured: Kafka) -> None:
    jobs = [secured.create("jobs.interactive"), secured.create("jobs.upload")]
    secured.produce(jobs[0], b"1")
    secured.produce(jobs[1], b"2")
    options = options_of(**login(secured, "ingest"))
    with pytest.raises(NotAllowed, match="ACL Describe"):
        topics.ensure(options, wanted_of(secured, "jobs.interactive"), create=False)
    allow(secured, "ingest", "topic", secured.name("jobs."), ["read"])
    with pytest.raises(NotAllowed, match=r"GroupAuthorizationFailed.*ACLs in docs/operations\.md"):
        consumed(options, secured.group, jobs, 2)
    allow(secured, "ingest", "group", secured.group, ["read"])
    assert topics.ensure(options, wanted_of(secured, "jobs.interactive", "jobs.upload"), create=False) == []
    assert topics.cluster_id(options) == secured.server.cluster_id
    assert sorted(consumed(options, secured.group, jobs, 2)) == [b"1", b"2"]
    assert secured.committed(jobs[0]) == {0: 1}
    with pytest.raises(NotAllowed, match="DescribeConfigs"):
        topics.retention(options, jobs)
    allow(secured, "ingest", "topic", secured.name("jobs."), ["describe_configs"])
    assert set(topics.retention(options, jobs)) == set(jobs)


def test_the_relay_needs_write_of_the_results_topic(secured: Kafka) -> None:
    results, other = secured.create("results"), secured.create("readable")
    options = options_of(**login(secured, "relay"))
    records = [Outgoing(results, b"k", b"1"), Outgoing(other, b"k", b"2")]
    refused = ["TOPIC_AUTHORIZATION_FAILED", "TOPIC_AUTHORIZATION_FAILED"]
    with Publisher(options) as publisher:
        assert codes(publisher.publish(records)) == refused
        allow(secured, "relay", "topic", results, ["write"])
        allow(secured, "relay", "topic", other, ["read"])
        answers = publisher.publish(records)
        assert codes(answers) == [None, "TOPIC_AUTHORIZATION_FAILED"]
        assert isinstance(answers[1], Refusal)
        assert f"topic {other}: it needs the ACL Write" in answers[1].message
        assert publisher.cluster_id() == secured.server.cluster_id
    assert secured.values(results) == [b"1"]


def test_making_topics_needs_create(secured: Kafka) -> None:
    options, wanted = options_of(**login(secured, "setup")), wanted_of(secured, "made")
    allow(secured, "setup", "topic", wanted[0].name, ["describe"])
    with pytest.raises(NotAllowed, match=rf"topic {wanted[0].name} is missing and we may not make it.*ACL Create"):
        topics.ensure(options, wanted, create=True)
    allow(secured, "setup", "topic", wanted[0].name, ["create"])
    assert topics.ensure(options, wanted, create=True) == [wanted[0].name]


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    cases: Mapping[str, dict[str, Any]] = {
        "MEDIAMILL_KAFKA_SSL_CA": {"kafka_ssl_ca": wrong},
        "MEDIAMILL_KAFKA_SSL_CERT": {"kafka_ssl_cert": wrong, "kafka_ssl_key": wrong},
    }
    for setting, files in cases.items():
        with pytest.raises(BadSetting, match=f"{setting}.*ca.pem cannot be used"):
            options_of(kafka_bootstrap="127.0.0.1:1", kafka_security="ssl", **files).client("test")


def test_a_server_that_speaks_another_protocol_is_told_from_kafka() -> None:
    """Its answer begins as a short answer of Kafka's would."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            stream, _ = server.accept()
            with stream:
                stream.recv(1000)
                stream.sendall(struct.pack(">i", 14) + b"\0" * 4 + b"\0\0\0\0\0\7" + b"\1\0\0\0")

        thread = threading.Thread(target=answer)
        thread.start()
        trouble = diagnosis.of(KafkaOptions((f"127.0.0.1:{server.getsockname()[1]}",)))
        thread.join()
    assert isinstance(trouble, BrokerAway)
    assert "does not speak Kafka's protocol" in str(trouble)


def deployment_of(database: Database, home: Path, **settings: Any) -> Deployment:
    """With the relay's and the broker's settings, as a process would load them."""
    settings.pop("kafka_ssl_ca")  # not of a listener without TLS
    environ = {f"MEDIAMILL_{name.upper()}": str(value) for name, value in settings.items()}
    own = {"MEDIAMILL_HOME": str(home), "MEDIAMILL_DATABASE_URL": database.url}
    return Deployment(Settings.load(environ=environ | own))


def test_doctor_fails_where_we_are_not_let_in_and_warns_of_rights_that_are_missing(
    secured: Kafka, database: Database, tmp_path: Path
) -> None:
    with deployment_of(database, tmp_path, **login(secured, "alice", password="wrong")) as deployment:
        check = check_kafka.kafka(deployment)
    assert (check.status, "MEDIAMILL_KAFKA_PASSWORD" in check.detail) == (Status.FAIL, True)
    topic = secured.create_named(f"{uuid.uuid4().hex}.jobs.upload")
    settings = login(secured, "setup") | {"kafka_prefix": topic.removesuffix(".jobs.upload")}
    with deployment_of(database, tmp_path, **settings) as deployment:
        check = check_kafka.kafka(deployment)
    assert (check.status, "ACL" in check.detail) == (Status.WARN, True)


def test_a_relay_gets_along_with_the_rights_on_its_own_topics(
    secured: Kafka, database: Database, tmp_path: Path
) -> None:
    prefix = uuid.uuid4().hex
    results = secured.create_named(f"{prefix}.results")
    allow(secured, "relay", "topic", results, ["write", "describe"])
    with deployment_of(database, tmp_path, **login(secured, "relay"), kafka_prefix=prefix) as deployment:
        assert deployment.kafka is not None
        health = Health()
        relay = KafkaParts(deployment, deployment.kafka).relay(health, Metrics(), random.Random(1))
        stop = threading.Event()
        thread = threading.Thread(target=relay.run, args=(stop,))
        thread.start()
        try:
            wait_until(lambda: any(c.name == "outbox" and c.ok for c in health.checks()), 20, "the relay's health")
        finally:
            stop.set()
            relay.wake()
            thread.join(30)


def test_a_certificate_that_is_being_exchanged_is_waited_for(secured: Kafka, tmp_path: Path) -> None:
    certificate, key = authority(secured).vouch("alice")
    own = tmp_path / "certificate.pem"
    options = options_of(**listener(secured, "MUTUAL"), kafka_security="ssl", kafka_ssl_cert=own, kafka_ssl_key=key)
    with KafkaEvents(options) as publisher:
        own.write_text("half of it")
        with pytest.raises(relay_publisher.BrokerAway, match="MEDIAMILL_KAFKA_SSL_CERT"):
            publisher.cluster_id()
        own.write_bytes(certificate.read_bytes())
        assert publisher.cluster_id() == secured.server.cluster_id
