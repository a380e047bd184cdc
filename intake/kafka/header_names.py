"""Headers whose names are not UTF-8: brokers take them, and kafka-python would stop at them for ever.

It reads names strictly (3.0.12), calls a record with another one corrupt, and never comes past it; no partition of that
consumer is read then. Here such bytes come as surrogates (PEP 383), as `storage.rejections` keeps them.
"""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords


def read_any(consumer: KafkaConsumer) -> None:
    """From now on this consumer reads records whatever the names of their headers are."""
    fetcher = consumer._fetcher
    parsed = fetcher.PartitionRecords

    def parse(fetch_offset: int, place: Any, records: MemoryRecords, **more: Any) -> Any:
        records.__class__ = _Records
        return parsed(fetch_offset, place, records, **more)

    fetcher.PartitionRecords = parse


class _Records(MemoryRecords):  # type: ignore[misc] # kafka-python has no types
    __slots__ = ()

    def next_batch(self, *given: Any, **more: Any) -> Any:
        batch = super().next_batch(*given, **more)
        if type(batch) is DefaultRecordBatch:
            batch.__class__ = _Batch
        return batch


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    __slots__ = ()

    def _read_msg(self, *given: Any, **more: Any) -> Any:
        try:
            return super()._read_msg(*given, **more)
        except UnicodeDecodeError:
            # Nothing has moved on yet. It stays so for the rest of the batch: a copy for each record would be slow.
            self._buffer = _Buffer(self._buffer)  # type: ignore[misc, has-type]
            return super()._read_msg(*given, **more)


class _Buffer(bytearray):
    """Its slices, as texts, have surrogates for what is not UTF-8."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Buffer(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 as bytes has it
        return _Name(super().decode(encoding, "surrogateescape"))


class _Name(str):
    """kafka-python takes a name's length, by what it is encoded to."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:  # noqa: ARG002 as str has it
        return super().encode(encoding, "surrogateescape")
