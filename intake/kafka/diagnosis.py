"""Why no broker can be used: what the client library says into its log or not at all, found out by asking the servers.

It is asked after something failed, over a connection of its own: is there a host, does it answer, does it speak TLS as
we do, does it ask who we are, does it let us in.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from kafka import errors as client

from intake.kafka import probe
from intake.kafka.errors import BrokerAway, KafkaTrouble, NotAllowed, plain
from intake.kafka.oauth import NoToken
from intake.kafka.options import KafkaOptions

TIMEOUT_S = 2.0


@contextmanager
def asking(options: KafkaOptions, doing: str) -> Iterator[None]:
    """The client library's errors inside become BrokerAway and NotAllowed, with the reason where one can be found.

    `doing` says for what ("listing topics").
    """
    try:
        yield
    except client.AuthorizationError as error:
        raise NotAllowed(f"{doing}: {plain(error)}; see the ACLs in docs/operations.md") from error
    except (client.KafkaError, NoToken, OSError) as error:
        servers = ", ".join(options.servers)
        trouble = of(options) or BrokerAway(f"Kafka at {servers} failed at {doing}: {plain(error)}")
        raise trouble from error


def of(options: KafkaOptions) -> KafkaTrouble | None:
    """What is wrong, with the setting's name; None where a server lets us in."""
    if options.sasl is not None and options.sasl.token is not None:
        try:
            options.sasl.token.token()
        except NoToken as error:
            return BrokerAway(f"Kafka: {error}")
    found = []
    for server in options.servers:
        trouble = _server(options, server)
        if trouble is None:
            return None
        found.append(trouble)
    kind = NotAllowed if any(isinstance(trouble, NotAllowed) for trouble in found) else BrokerAway
    return kind("; ".join(dict.fromkeys(map(str, found))))


def _server(options: KafkaOptions, server: str) -> KafkaTrouble | None:
    host, _, port = server.rpartition(":")
    where = f"Kafka at {server}"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S) as stream:
            return _transport(options, where, stream, host.strip("[]"))
    except socket.gaierror:
        return BrokerAway(f"{where}: no such host; look at MEDIAMILL_KAFKA_BOOTSTRAP")
    except TimeoutError:
        return BrokerAway(f"{where} does not answer")
    except (struct.error, UnicodeDecodeError):
        return BrokerAway(f"{where} does not speak Kafka's protocol; look at MEDIAMILL_KAFKA_BOOTSTRAP")
    except OSError as error:
        why = error.strerror or str(error)
        return BrokerAway(f"{where} cannot be reached ({why}); does it run, is MEDIAMILL_KAFKA_BOOTSTRAP right?")


def _transport(options: KafkaOptions, where: str, raw: socket.socket, host: str) -> KafkaTrouble | None:
    security = options.security.lower()
    if options.tls is None:
        return _listener(options, where, raw)
    try:
        with options.tls.context().wrap_socket(raw, server_hostname=host) as stream:
            return _listener(options, where, stream)
    except ssl.SSLCertVerificationError as error:
        setting = "_CHECK_HOSTNAME" if "mismatch" in error.verify_message else "_CA"
        why = f"its certificate is not accepted ({error.verify_message})"
        return BrokerAway(f"{where}: {why}; look at MEDIAMILL_KAFKA_SSL{setting}")
    except ssl.SSLError as error:
        # By the names of TLS alerts: what is said to a client whose certificate is missing or not known.
        if any(alert in str(error) for alert in ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA")):
            return NotAllowed(f"{where} wants a certificate of ours that it knows; look at MEDIAMILL_KAFKA_SSL_CERT")
        return BrokerAway(f"{where} does not speak TLS; MEDIAMILL_KAFKA_SECURITY is {security}")


def _listener(options: KafkaOptions, where: str, stream: socket.socket) -> KafkaTrouble | None:
    """What is wrong with what we say who we are."""
    sasl, security = options.sasl, options.security.lower()
    answer = probe.handshake(stream, sasl.mechanism if sasl is not None else "PLAIN")
    if answer is None:
        if options.tls is None and _speaks_tls(stream):
            right = "ssl" if sasl is None else "sasl_ssl"
            return BrokerAway(f"{where} speaks TLS; MEDIAMILL_KAFKA_SECURITY is {security}, write {right}")
        return BrokerAway(f"{where} hangs up on us; does MEDIAMILL_KAFKA_BOOTSTRAP name a Kafka listener?")
    mechanisms = ", ".join(answer.mechanisms)
    if sasl is None:
        if not answer.asks:
            return None
        right = "sasl_plaintext" if options.tls is None else "sasl_ssl"
        return NotAllowed(
            f"{where} asks who we are; set MEDIAMILL_KAFKA_SECURITY to {right}, "
            f"and MEDIAMILL_KAFKA_SASL_MECHANISM to one of {mechanisms}"
        )
    if not answer.asks:
        return NotAllowed(f"{where} does not ask who we are; MEDIAMILL_KAFKA_SECURITY is {security}")
    if sasl.mechanism not in answer.mechanisms:
        return NotAllowed(
            f"{where} does not take {sasl.mechanism}; set MEDIAMILL_KAFKA_SASL_MECHANISM to one of {mechanisms}"
        )
    refusal = probe.login(stream, sasl)
    if refusal is None:
        return None
    names = "USERNAME and MEDIAMILL_KAFKA_PASSWORD" if sasl.token is None else "OAUTH_CLIENT_ID and _OAUTH_SCOPE"
    return NotAllowed(f"{where} does not let us in; look at MEDIAMILL_KAFKA_{names} ({refusal})")


def _speaks_tls(raw: socket.socket) -> bool:
    """Tried on a connection of its own, with whatever certificate it has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(raw.getpeername()[:2], timeout=TIMEOUT_S) as fresh,
            context.wrap_socket(fresh),
        ):
            return True
    except OSError:
        return False
