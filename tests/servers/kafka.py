"""A real Kafka broker (one process, KRaft) as a child that dies with the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import UnknownTopicOrPartitionError

from tests.servers.leashed import Leashed, ServerFailed, free_port

JARS = Path(__file__).resolve().parents[2] / ".servers" / "kafka-broker"
STARTED = b"Kafka Server started"

# Small, quick to start and quick to expire, but otherwise as a broker comes.
SETTINGS = {
    "auto.create.topics.enable": "false",
    # A killed one may not register again before its former self has timed out.
    "broker.heartbeat.interval.ms": "200",
    "broker.session.timeout.ms": "1000",
    "controller.listener.names": "CONTROLLER",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.initial.task.delay.ms": "500",
    "log.retention.check.interval.ms": "500",
    "node.id": "1",
    "num.io.threads": "4",
    "num.network.threads": "2",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "process.roles": "broker,controller",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
}

# The line of its start is how its readiness is known, so that one logger is not as quiet as the others.
LOGGING = """<Configuration status="ERROR">
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %m (%c)%n"/></Console></Appenders>
  <Loggers>
    <Root level="WARN"><AppenderRef ref="out"/></Root>
    <Logger name="kafka.server.KafkaRaftServer" level="INFO"/>
  </Loggers>
</Configuration>
"""


class KafkaServer(Leashed):
    """Kafka 4 on 127.0.0.1, plaintext, topics made on request only.

    `start` after `kill` is a recovery on the same data. `freeze` and `thaw` are what a long pause of the host does.
    """

    name = "kafka"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """`settings`: further lines of server.properties, over those in SETTINGS."""
        super().__init__()
        controller = free_port()
        self.cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._data, self._log_start = self.folder / "data", 0
        self._logging, self._configuration = self.folder / "log4j2.xml", self.folder / "server.properties"
        self._logging.write_text(LOGGING)
        lines = {
            **SETTINGS,
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}",
            "log.dirs": str(self._data),
        }
        # A setting that begins with + is appended to the one of that name.
        for name, value in (settings or {}).items():
            lines[name.lstrip("+")] = f"{lines[name[1:]]},{value}" if name.startswith("+") else value
        self._configuration.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    @property
    def bootstrap(self) -> str:
        """host:port of the plaintext listener, as clients want it."""
        return f"127.0.0.1:{self.port}"

    def start(self, within_s: float = 90.0) -> Self:
        """On a host that is busy with other tests it takes ten times as long as on an idle one."""
        return super().start(within_s)

    def command(self) -> Sequence[str]:
        if not self._data.exists():
            self._format()
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        return self._java("kafka.Kafka", str(self._configuration))

    def ready(self) -> bool:
        """Its own word, which comes after the last of its ports is open."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return STARTED in log.read()

    def freeze(self) -> None:
        """SIGSTOP: its ports accept, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT, after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self.running:
            self.thaw()
        super().stop()

    def close(self) -> None:
        """End it at once, for nobody will read what it has not written, and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)

    def _format(self) -> None:
        options = ["format", f"--cluster-id={self.cluster_id}", "-c", str(self._configuration)]  # it may begin with a -
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", *options), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ServerFailed(f"{self.name}'s folder could not be formatted\n{done.stdout}{done.stderr}")

    def _java(self, program: str, *arguments: str) -> list[str]:
        options = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
        logging = [f"-Dlog4j2.configurationFile={self._logging}"]
        return ["java", *options, *logging, "-cp", f"{JARS}/*", program, *arguments]


class Kafka:
    """A running broker for one test: names of its own on it, and the other side's part in short sentences.

    Topics are given and named without the prefix: `create("jobs")` gives "t0a1b2c3d.jobs", and so does `name("jobs")`;
    every other method takes the full name.
    """

    def __init__(self, server: KafkaServer) -> None:
        self.server = server
        self.prefix = f"t{uuid.uuid4().hex[:8]}"
        self.group = f"{self.prefix}.group"
        self._clients: dict[type[Any], Any] = {}
        self._clients_of = 0

    @property
    def bootstrap(self) -> str:
        return self.server.bootstrap

    @property
    def settings(self) -> dict[str, Any]:
        """As keywords for Settings: this broker, with this test's names."""
        return {"kafka_bootstrap": self.bootstrap, "kafka_prefix": self.prefix, "kafka_group": self.group}

    @property
    def environ(self) -> dict[str, str]:
        """The same for another process."""
        return {f"MEDIAMILL_{name.upper()}": value for name, value in self.settings.items()}

    def name(self, topic: str) -> str:
        return f"{self.prefix}.{topic}"

    @property
    def admin(self) -> KafkaAdminClient:
        """Another one after the broker was started again: the library's would not find its way back by itself."""
        return self._client(KafkaAdminClient)

    @property
    def _producer(self) -> KafkaProducer:
        return self._client(KafkaProducer, linger_ms=5, max_request_size=16 << 20)

    def _client(self, kind: type[Any], **keywords: Any) -> Any:
        if self._clients_of != self.server.pid:
            self.close()
            self._clients_of = self.server.pid
        if kind not in self._clients:
            self._clients[kind] = kind(bootstrap_servers=self.bootstrap, **keywords)
        return self._clients[kind]

    def create(self, topic: str, partitions: int = 1, **configs: object) -> str:
        """Its full name. `configs` with _ for the dots: `retention_ms=1000`."""
        return self.create_named(self.name(topic), partitions, **configs)

    def create_named(self, name: str, partitions: int = 1, **configs: object) -> str:
        wanted = {key.replace("_", "."): str(value) for key, value in configs.items()}
        self.admin.create_topics({name: {"num_partitions": partitions, "configs": wanted}}, wait_for_metadata=True)
        return name

    def delete(self, *names: str) -> None:
        """Returns when the broker no longer knows them."""
        self.admin.delete_topics(list(names))
        deadline = time.monotonic() + 10
        while any(topic["error_code"] == 0 for topic in self.admin.describe_topics(list(names))):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{names} were not gone within 10 s")
            time.sleep(0.02)

    def topics(self) -> set[str]:
        """Of this test."""
        return {name for name in self.admin.list_topics() if name.startswith(f"{self.prefix}.")}

    def partitions(self, name: str) -> list[int]:
        """Raises UnknownTopicOrPartitionError."""
        (topic,) = self.admin.describe_topics([name])
        if topic["error_code"] != 0:
            raise UnknownTopicOrPartitionError(name)
        return sorted(partition["partition_index"] for partition in topic["partitions"])

    def produce(
        self,
        name: str,
        *values: bytes | str | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> list[tuple[int, int]]:
        """The (partition, offset) of each, when all are acknowledged. A value of None wants a key."""
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        futures = [
            self._producer.send(name, value, key, list(headers), partition, timestamp_ms=timestamp_ms)
            for value in encoded
        ]
        metadata = [future.get(timeout=20) for future in futures]
        return [(each.partition, each.offset) for each in metadata]

    def consume(self, name: str, count: int | None = None, within_s: float = 20.0) -> list[ConsumerRecord]:
        """All that is there, from the first; with `count` it waits for so many. Sorted by partition and offset.

        Raises TimeoutError.
        """
        tps = [TopicPartition(name, partition) for partition in self.partitions(name)]
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, group_id=None
        )
        records: list[ConsumerRecord] = []
        deadline = time.monotonic() + within_s
        try:
            consumer.assign(tps)
            ends = consumer.end_offsets(tps)
            while len(records) < (count or 0) or (
                count is None and any(consumer.position(tp) < end for tp, end in ends.items())
            ):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} had {len(records)} records after {within_s:g} s")
                records += [each for batch in consumer.poll(timeout_ms=100).values() for each in batch]
        finally:
            consumer.close(autocommit=False)
        return sorted(records, key=lambda record: (record.partition, record.offset))

    def values(self, name: str, count: int | None = None) -> list[bytes | None]:
        """Of `consume`."""
        return [record.value for record in self.consume(name, count)]

    def delete_records(self, name: str, before: int, partition: int = 0) -> None:
        """The log begins at offset `before` afterwards."""
        self.admin.delete_records({TopicPartition(name, partition): before})

    def ends(self, name: str) -> dict[int, int]:
        """Partition -> the offset that the next record gets."""
        offsets = self._offsets(name, "latest")
        return {partition: offsets[partition] for partition in sorted(offsets)}

    def starts(self, name: str) -> dict[int, int]:
        """Partition -> the offset of the first record that is still there."""
        offsets = self._offsets(name, "earliest")
        return {partition: offsets[partition] for partition in sorted(offsets)}

    def committed(self, name: str, group: str | None = None) -> dict[int, int]:
        """Partition -> the offset that the group (`self.group`) goes on from; partitions without one are left out."""
        group = group or self.group
        offsets = self.admin.list_group_offsets([group])[group]
        return {tp.partition: each.offset for tp, each in offsets.items() if tp.topic == name and each.offset >= 0}

    def members(self, group: str | None = None) -> list[str]:
        """Client ids of the group's members at this moment."""
        group = group or self.group
        described = self.admin.describe_groups([group])[group]
        return sorted(member["client_id"] for member in described["members"])

    def close(self) -> None:
        """Of its clients; they come anew when they are needed."""
        while self._clients:
            self._clients.popitem()[1].close()

    def _offsets(self, name: str, which: str) -> dict[int, int]:
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=None)
        try:
            tps = [TopicPartition(name, partition) for partition in self.partitions(name)]
            offsets: Iterable[tuple[TopicPartition, int]] = (
                consumer.end_offsets(tps) if which == "latest" else consumer.beginning_offsets(tps)
            ).items()
            return {tp.partition: offset for tp, offset in offsets}
        finally:
            consumer.close(autocommit=False)
