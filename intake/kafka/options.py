"""How brokers are spoken to: the settings as what the client library takes."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.errors import BadSetting
from config.kafka import KafkaSettings
from intake.kafka.oauth import ClientCredentials


@dataclass(frozen=True)
class Tls:
    """What a broker's certificate is checked by, and what is shown of ours."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    key_password: str | None = field(default=None, repr=False)
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """Raises BadSetting where a file cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = self.check_hostname
        if self.ca is None:
            context.load_default_certs()
        else:
            with _usable("MEDIAMILL_KAFKA_SSL_CA", self.ca):
                context.load_verify_locations(self.ca)
        if self.cert is not None:
            # A password that is never asked for is a callable here: without one, OpenSSL would ask the terminal.
            with _usable(
                "MEDIAMILL_KAFKA_SSL_CERT, MEDIAMILL_KAFKA_SSL_KEY or MEDIAMILL_KAFKA_SSL_KEY_PASSWORD", self.cert
            ):
                context.load_cert_chain(self.cert, self.key, lambda: self.key_password or "")
        return context


@dataclass(frozen=True)
class Sasl:
    """Who we say we are."""

    mechanism: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: ClientCredentials | None = field(default=None, compare=False)

    def keywords(self) -> dict[str, Any]:
        """As the client library calls them."""
        if self.token is not None:
            return {"sasl_mechanism": self.mechanism, "sasl_oauth_token_provider": self.token}
        return {
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }


@dataclass(frozen=True)
class KafkaOptions:
    """Which brokers, how, and how long we wait for them; the same for every client of this process."""

    servers: tuple[str, ...]
    tls: Tls | None = None
    sasl: Sasl | None = None
    connect_s: float = 10.0  # for the first broker to answer
    request_s: float = 20.0  # for the answer to one request

    @classmethod
    def of(cls, settings: KafkaSettings) -> KafkaOptions | None:
        """None where no Kafka is configured. The settings are taken to be without `conflicts`."""
        if settings.kafka_bootstrap is None:
            return None
        tls = sasl = None
        if settings.kafka_security in ("ssl", "sasl_ssl"):
            tls = Tls(
                ca=settings.kafka_ssl_ca,
                cert=settings.kafka_ssl_cert,
                key=settings.kafka_ssl_key,
                key_password=settings.kafka_ssl_key_password,
                check_hostname=settings.kafka_ssl_check_hostname,
            )
        if settings.kafka_sasl_mechanism is not None:
            token = None
            if settings.kafka_sasl_mechanism == "OAUTHBEARER":
                token = ClientCredentials(
                    url=settings.kafka_oauth_token_url or "",
                    client_id=settings.kafka_oauth_client_id or "",
                    client_secret=settings.kafka_oauth_client_secret or "",
                    scope=settings.kafka_oauth_scope,
                )
            sasl = Sasl(settings.kafka_sasl_mechanism, settings.kafka_username, settings.kafka_password, token)
        return cls(tuple(server.strip() for server in settings.kafka_bootstrap.split(",")), tls, sasl)

    @property
    def security(self) -> str:
        """As the client and the brokers call it: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
        kind = "PLAINTEXT" if self.tls is None else "SSL"
        return kind if self.sasl is None else f"SASL_{kind}"

    def client(self, name: str) -> dict[str, Any]:
        """Keywords that every client of the library takes; `name` says in the broker's log which of ours it is.

        Raises BadSetting where a certificate cannot be used.
        """
        keywords: dict[str, Any] = {
            "bootstrap_servers": list(self.servers),
            "client_id": f"mediamill-{name}",
            "security_protocol": self.security,
            "bootstrap_timeout_ms": round(self.connect_s * 1000),
            "request_timeout_ms": round(self.request_s * 1000),
            # The default grows to 30 s: so long would we stay away from a broker that is back.
            "reconnect_backoff_max_ms": 1000,
        }
        if self.tls is not None:
            keywords["ssl_context"] = self.tls.context()
        if self.sasl is not None:
            keywords |= self.sasl.keywords()
        return keywords


@contextmanager
def _usable(settings: str, path: Path) -> Iterator[None]:
    """Turns what OpenSSL says about a file into a sentence about the setting."""
    try:
        yield
    except OSError as error:
        raise BadSetting([f"{settings}: {path} cannot be used: {error}"]) from error
