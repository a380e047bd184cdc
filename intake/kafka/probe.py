"""The two requests by which a broker lets somebody in, spoken over a plain socket to learn why it does not.

Kafka's protocol: SaslHandshake (17) version 1 and SaslAuthenticate (36) version 0. The client library loses what a
broker says when it hangs up in the same breath, as it does after a wrong password.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from kafka.net.sasl import get_sasl_mechanism

from intake.kafka.options import Sasl

SASL_HANDSHAKE: Final = 17
SASL_AUTHENTICATE: Final = 36
ILLEGAL_SASL_STATE: Final = 34


@dataclass(frozen=True)
class Handshake:
    """What a listener says to a stranger who names a mechanism."""

    asks: bool  # who we are
    mechanisms: tuple[str, ...]


def handshake(stream: socket.socket, mechanism: str) -> Handshake | None:
    """None where it hangs up. Raises TimeoutError."""
    answer = _ask(stream, SASL_HANDSHAKE, 1, _string(mechanism))
    if answer is None:
        return None
    error, count = struct.unpack_from(">hi", answer)
    at, found = 6, []
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        found.append(answer[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return Handshake(error != ILLEGAL_SASL_STATE, tuple(found))


def login(stream: socket.socket, sasl: Sasl) -> str | None:
    """After `handshake`: why we are not let in, in the broker's words; None where we are. Raises TimeoutError."""
    mechanism = get_sasl_mechanism(sasl.mechanism)(**sasl.keywords())
    while not mechanism.is_done():
        sent = mechanism.auth_bytes()
        answer = _ask(stream, SASL_AUTHENTICATE, 0, struct.pack(">i", len(sent)) + sent)
        if answer is None:
            return "it hangs up"
        error, length = struct.unpack_from(">hh", answer)
        if error != 0:
            return answer[4 : 4 + length].decode() if length > 0 else f"error {error}"
        try:
            mechanism.receive(answer[8 + max(length, 0) :])
        except ValueError as wrong:  # the broker does not know the password either
            return str(wrong)
    return None if mechanism.is_authenticated() else "it does not say why"


def _ask(stream: socket.socket, key: int, version: int, body: bytes) -> bytes | None:
    """The body of the answer; None where it hangs up."""
    request = struct.pack(">hhih", key, version, 0, -1) + body
    try:
        stream.sendall(struct.pack(">i", len(request)) + request)
        head = _read(stream, 4)
        if len(head) < 4 or head[0] != 0:  # no Kafka: an answer of 16 MiB or more
            return None
        answer = _read(stream, struct.unpack(">i", head)[0])
    except ConnectionError:
        return None
    return answer[4:] if len(answer) >= 10 else None


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _read(stream: socket.socket, count: int) -> bytes:
    """Fewer bytes where it hangs up."""
    read = b""
    while len(read) < count and (more := stream.recv(count - len(read))):
        read += more
    return read
