"""Clients of the library, made so that nothing is left of one that could not be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kafka.net.compat import KafkaNetClient

from intake.kafka.options import KafkaOptions

Client = TypeVar("Client")


def connected(kind: Callable[..., Client], options: KafkaOptions, name: str, **more: Any) -> Client:
    """`kind(**options.client(name), **more)`, connected: KafkaConsumer, KafkaProducer or KafkaAdminClient.

    Each of them connects when it is made, and one that cannot leaves its thread and its sockets running: whoever waits
    for a broker would gather them. Raises what the library raises (see `diagnosis.asking`), and BadSetting.
    """
    networks: list[KafkaNetClient] = []

    def network(**configs: Any) -> KafkaNetClient:
        networks.append(KafkaNetClient(**configs))
        return networks[-1]

    keywords = {**options.client(name), **more}
    try:
        return kind(kafka_client=network, **keywords)
    except BaseException:
        for each in networks:
            each.close()
        raise
