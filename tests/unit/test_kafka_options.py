"""The settings of Kafka as what the client library takes, and the tokens of OAUTHBEARER."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from config.errors import BadSetting
from config.kafka import KafkaSettings, conflicts
from config.settings import Settings
from intake.kafka.oauth import ClientCredentials, NoToken
from intake.kafka.options import KafkaOptions


def options_of(**settings: Any) -> KafkaOptions:
    options = KafkaOptions.of(KafkaSettings(kafka_bootstrap="a:9092,b:9093", **settings))
    assert options is not None
    return options


LOGIN = {"kafka_sasl_mechanism": "SCRAM-SHA-256", "kafka_username": "alice", "kafka_password": "wonder"}


def test_without_servers_there_is_no_kafka() -> None:
    assert KafkaOptions.of(KafkaSettings()) is None


def test_every_client_takes_the_keywords() -> None:
    keywords = options_of(kafka_security="sasl_ssl", **LOGIN).client("test")
    for client in (KafkaConsumer, KafkaProducer, KafkaAdminClient):
        assert keywords.keys() <= client.DEFAULT_CONFIG.keys()
    assert keywords["bootstrap_servers"] == ["a:9092", "b:9093"]
    assert keywords["client_id"] == "mediamill-test"


@pytest.mark.parametrize("security", ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"])
def test_security_is_what_the_settings_say(security: str) -> None:
    options = options_of(kafka_security=security, **(LOGIN if "sasl" in security else {}))
    keywords = options.client("test")
    assert keywords["security_protocol"] == security.upper()
    assert ("ssl_context" in keywords) is ("ssl" in security)
    assert keywords.get("sasl_plain_username") == ("alice" if "sasl" in security else None)


def test_passwords_and_secrets_are_not_shown() -> None:
    secret = "not to be seen"
    login = {**LOGIN, "kafka_password": secret}
    token = {
        "kafka_sasl_mechanism": "OAUTHBEARER",
        "kafka_oauth_token_url": "https://tokens.example/token",
        "kafka_oauth_client_id": "mediamill",
        "kafka_oauth_client_secret": secret,
    }
    for settings in (login, token):
        options = options_of(kafka_security="sasl_ssl", kafka_ssl_key_password=secret, **settings)
        assert secret not in repr(options)


@dataclass
class TokenServer:
    """Answers with `status` and `body`, and keeps what it was asked."""

    url: str = ""
    status: int = 200
    body: bytes = b'{"access_token": "first", "token_type": "bearer", "expires_in": 100}'
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)

    def provider(self, now: list[float], **more: Any) -> ClientCredentials:
        return ClientCredentials(url=self.url, client_id="id", client_secret="s3", now=lambda: now[0], **more)


@pytest.fixture
def token_server() -> Iterator[TokenServer]:
    state = TokenServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            state.asked.append((self.headers.get("Authorization", ""), parse_qs(form)))
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def test_a_token_is_asked_for_by_the_client_credentials_grant(token_server: TokenServer) -> None:
    assert token_server.provider([0.0], scope="kafka").token() == "first"
    (asked,) = token_server.asked
    assert asked == ("Basic aWQ6czM=", {"grant_type": ["client_credentials"], "scope": ["kafka"]})


def test_a_token_is_kept_until_shortly_before_its_end(token_server: TokenServer) -> None:
    now = [0.0]
    provider = token_server.provider(now)
    assert provider.token() == "first"
    token_server.body = json.dumps({"access_token": "second", "expires_in": 100}).encode()
    now[0] = 79.0
    assert provider.token() == "first"
    now[0] = 81.0
    assert provider.token() == "second"
    assert len(token_server.asked) == 2


def test_a_token_without_an_end_is_used_once(token_server: TokenServer) -> None:
    token_server.body = b'{"access_token": "short"}'
    provider = token_server.provider([0.0])
    assert [provider.token(), provider.token()] == ["short", "short"]
    assert len(token_server.asked) == 2


def test_two_threads_ask_for_one_token(token_server: TokenServer) -> None:
    provider = token_server.provider([0.0])
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(provider.token())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["first"] * 4
    assert len(token_server.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "setting"),
    [
        (401, b'{"error": "invalid_client"}', "MEDIAMILL_KAFKA_OAUTH_CLIENT_ID"),
        (503, b"busy", "MEDIAMILL_KAFKA_OAUTH_TOKEN_URL"),
        (200, b"<html>", "MEDIAMILL_KAFKA_OAUTH_TOKEN_URL"),
        (200, b'{"access_token": ""}', "MEDIAMILL_KAFKA_OAUTH_TOKEN_URL"),
        (200, b'{"accessToken": "a-token"}', "MEDIAMILL_KAFKA_OAUTH_TOKEN_URL.*access_token: Field required"),
        (302, b"", "MEDIAMILL_KAFKA_OAUTH_TOKEN_URL"),
    ],
)
def test_an_answer_without_a_token_names_the_setting(
    token_server: TokenServer, status: int, body: bytes, setting: str
) -> None:
    token_server.status, token_server.body = status, body
    with pytest.raises(NoToken, match=setting) as raised:
        token_server.provider([0.0]).token()
    assert "s3" not in str(raised.value)
    assert "a-token" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "name", "sentence"),
    [
        ({"kafka_ssl_ca": __file__}, "kafka_ssl_ca", "is not used while kafka_security is plaintext; write ssl"),
        (
            {**LOGIN, "kafka_security": "sasl_plaintext", "kafka_ssl_ca": __file__},
            "kafka_ssl_ca",
            "is not used while kafka_security is sasl_plaintext; write sasl_ssl",
        ),
        ({"kafka_password": "x"}, "kafka_password", "is not used while kafka_security is plaintext; write sasl_ssl"),
    ],
)
def test_what_is_set_for_safety_and_would_not_be_used_is_refused(
    settings: dict[str, Any], name: str, sentence: str
) -> None:
    [(found, said)] = conflicts(KafkaSettings.model_validate(settings))
    assert found == name
    assert said.startswith(sentence)


@pytest.mark.parametrize("password", ["not to be seen", "not://to.be.seen"])
def test_a_password_is_not_shown_whether_it_is_refused_or_taken(password: str) -> None:
    with pytest.raises(BadSetting) as raised:
        Settings.load(environ={"MEDIAMILL_KAFKA_PASSWORD": password}, files=[])
    assert "MEDIAMILL_KAFKA_PASSWORD" in str(raised.value)
    login = {"SECURITY": "sasl_ssl", "SASL_MECHANISM": "PLAIN", "USERNAME": "a", "PASSWORD": password}
    loaded = Settings.load(environ={f"MEDIAMILL_KAFKA_{name}": value for name, value in login.items()}, files=[])
    assert password not in str(raised.value)
    assert password not in str(loaded.shown())
