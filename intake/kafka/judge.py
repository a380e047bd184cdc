"""From a record to what it is stored as: a job, or a rejection that says why it is none."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from config.lanes import Lane
from handlers.registry import Registry
from intake.admission import new_job
from intake.identity import id_from_record
from intake.kafka.record import Arrived, envelope_trace, message_in, trace_of
from intake.message import Rules, parse
from intake.problems import Problem, Refused
from intake.rejections import rejection_of
from storage.rejections import NewRejection
from storage.submit import NewJob


class Judge:
    """Validates records by the rules of their lanes."""

    def __init__(self, registry: Registry, rules: Mapping[Lane, Rules], build: str) -> None:
        """`rules`: of each lane that is read, with that lane as the door's. `build`: which one refuses."""
        self._registry = registry
        self._rules = rules
        self._build = build

    def __call__(self, arrived: Arrived, cluster_id: str) -> NewJob | NewRejection:
        """What a record of a cluster is stored as."""
        trace = trace_of(arrived)
        try:
            rules = self._rules[arrived.lane]
            message = message_in(arrived, rules)
            if trace is None:
                trace = envelope_trace(message)
            spec = parse(message, self._registry, rules)
        except Refused as refused:
            return self._rejection(arrived, cluster_id, refused, trace)
        return new_job(spec, spec.id or derived_id(arrived, cluster_id), trace)

    def rejection(self, arrived: Arrived, cluster_id: str, problem: Problem) -> NewRejection:
        """The rejection of a record that passed, and that the tables do not take."""
        return self._rejection(arrived, cluster_id, Refused([problem]), trace_of(arrived))

    def _rejection(
        self, arrived: Arrived, cluster_id: str, refused: Refused, trace: Mapping[str, str] | None
    ) -> NewRejection:
        return rejection_of(arrived, derived_id(arrived, cluster_id), refused, self._build, trace)


def derived_id(arrived: Arrived, cluster_id: str) -> uuid.UUID:
    """The id that a record gets by where and what it is."""
    value = arrived.value or b""
    return id_from_record(arrived.timestamp_ms, cluster_id, arrived.topic, arrived.partition, arrived.offset, value)
