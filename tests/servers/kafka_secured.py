"""A Kafka broker that wants to know who comes: TLS, SASL and ACLs, each on a port of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
    UserScramCredentialUpsertion,
)

from tests.servers.certificates import Authority
from tests.servers.kafka import Kafka, KafkaServer
from tests.servers.leashed import free_port

#: Whoever has one of these names has this password, by PLAIN and by SCRAM.
USERS = ("alice", "ingest", "relay", "setup")
PASSWORD = "not-a-secret"
LISTENERS = {"TLS": "SSL", "MUTUAL": "SSL", "SASL": "SASL_PLAINTEXT", "SASLTLS": "SASL_SSL"}
LOGINS = {
    "plain": "plain.PlainLoginModule required " + " ".join(f'user_{name}="{PASSWORD}"' for name in USERS),
    "scram-sha-256": "scram.ScramLoginModule required",
    "scram-sha-512": "scram.ScramLoginModule required",
    # Tokens that nobody signed: whose name is in it is who comes.
    "oauthbearer": 'oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker"',
}


class SecuredKafka(KafkaServer):
    """On the plaintext port everybody may do everything; on the others only what an ACL allows.

    Ports: `at("TLS")`, `at("MUTUAL")` (TLS with a certificate of the client), `at("SASL")`, `at("SASLTLS")`.
    """

    def __init__(self) -> None:
        self.certificates = Path(tempfile.mkdtemp(prefix="mediamill-certificates-"))
        self.authority = Authority(self.certificates)
        certificate, key = self.authority.vouch("broker", "127.0.0.1")
        keystore = self.certificates / "keystore.pem"
        keystore.write_bytes(key.read_bytes() + certificate.read_bytes())
        self._ports = {name: free_port() for name in LISTENERS}
        listeners = ",".join(f"{name}://{self.at(name)}" for name in LISTENERS)
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **LISTENERS}
        logins = {
            f"listener.name.{listener}.{mechanism}.sasl.jaas.config": f"org.apache.kafka.common.security.{module};"
            for listener in ("sasl", "sasltls")
            for mechanism, module in LOGINS.items()
        }
        super().__init__(
            {
                "+listeners": listeners,
                "+advertised.listeners": listeners,
                "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
                "listener.name.mutual.ssl.client.auth": "required",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(keystore),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.ca),
                "sasl.enabled.mechanisms": ",".join(mechanism.upper() for mechanism in LOGINS),
                **logins,
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS;User:alice;User:CN=alice",
            }
        )

    def at(self, listener: str) -> str:
        """host:port"""
        return f"127.0.0.1:{self._ports[listener]}"

    def close(self) -> None:
        super().close()
        for file in self.certificates.iterdir():
            file.unlink()
        self.certificates.rmdir()

    def add_scram_users(self, kafka: Kafka) -> None:
        """Those of USERS, by both mechanisms."""
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            added = [UserScramCredentialUpsertion(name, mechanism, PASSWORD, iterations=4096) for name in USERS]
            answers = kafka.admin.alter_user_scram_credentials(added)
            if any(answers.values()):
                raise RuntimeError(f"users were refused: {answers}")


def allow(kafka: Kafka, user: str, kind: str, name: str, operations: Iterable[str]) -> None:
    """ACLs: `allow(kafka, "ingest", "topic", "mediamill.", ["read"])` for what begins with `mediamill.`."""
    pattern = ResourcePattern(ResourceType[kind.upper()], name, ACLResourcePatternType.PREFIXED)
    permit = ACLPermissionType.ALLOW
    acls = [ACL(f"User:{user}", "*", ACLOperation[each.upper()], permit, pattern) for each in operations]
    refused = kafka.admin.create_acls(acls)["failed"]
    if refused:
        raise RuntimeError(f"ACLs were refused: {refused}")
