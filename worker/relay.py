"""The relay: takes events from the outbox to their destinations, at least once and in the order of each job.

Lease, publish, write what became of it: three steps, and no transaction stays open while a broker is spoken to. What
is delivered and not yet deleted when this process dies is published again, under the same event id, when its lease has
expired. A broker or a database that is away is waited for.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog

from storage import destinations, outbox
from storage.database import Connection, Database, DatabaseError
from storage.destinations import Backlog
from storage.outbox import Event, Refused
from worker.backoff import Backoff
from worker.events import outgoing, without_result
from worker.health import Health
from worker.metrics import Metrics
from worker.publisher import BrokerAway, Fault, Publisher, Refusal

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much at once, and how often. Seconds."""

    most: int = 1000
    """Events of one lease."""
    lease_s: float = 120
    """Longer than the publisher may take."""
    busy_s: float = 0.05
    """Between turns while there is something to do."""
    idle_s: float = 1.0
    """Grows to this while there is nothing."""
    away_s: float = 5.0
    """Grows to this while the broker or the database is away. For so long, too, waits what got no answer, and all that
    is for a topic that takes nothing."""
    look_s: float = 5.0
    """Between looks at what waits, at least."""
    drain_s: float = 5.0
    """How long what still waits is published after `stop`."""
    tries: int = 10
    """Refusals of an event before it is dead."""


class Turn(Enum):
    """What a turn of the relay found."""

    FULL = auto()
    """As many events as it takes at once: there may be more."""
    SOME = auto()
    NOTHING = auto()
    AWAY = auto()
    """No broker, or no database."""


@dataclass(slots=True)
class _Verdicts:
    """What became of leased events and is not written yet."""

    delivered: list[int] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.delivered or self.refused or self.unknown)


class Relay:
    """One relay; any number of them may work on one outbox.

    `topics`: the destinations that the settings name, name -> topic. `publisher` is used by the thread of `run` alone.
    """

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        topics: Mapping[str, str],
        health: Health,
        metrics: Metrics,
        backoff: Backoff | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = uuid.uuid4()
        self._database = database
        self._publisher = publisher
        self._topics = dict(topics)
        self._health = health
        self._metrics = metrics
        self._backoff = backoff or Backoff(2, 600, random.Random())
        self._pace = pace or Pace()
        self._clock = clock
        self._wake = threading.Event()
        #: The cluster that the publisher is on; None until it has said so, and again after each outage.
        self._cluster: str | None = None
        self._verdicts = _Verdicts()
        #: Since an outage nothing has been published: that the broker answers does not say that it takes events.
        self._unproven = False
        self._away = _Outage("the broker does not answer; events wait in the outbox", "the broker answers again")
        self._lost = _Outage("the database does not answer; the relay waits", "the database answers the relay again")
        self._next_look = clock()
        self._warned: dict[str, str] = {}
        #: Destinations whose topic takes nothing: until when they are left alone, and why.
        self._closed: dict[str, tuple[float, str]] = {}

    def wake(self) -> None:
        """There may be something to publish (or `stop` was set): do not wait for the next look. From any thread."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Relays until `stop`, and then, for a bounded time, what still waits."""
        pause = self._pace.busy_s
        try:
            while not stop.is_set():
                match self._turn():
                    case Turn.FULL | Turn.SOME as turn:
                        pause = self._pace.busy_s
                        if turn is Turn.SOME:
                            stop.wait(pause)
                    case Turn.NOTHING:
                        pause = min(2 * pause, self._pace.idle_s)
                        self._wake.wait(pause)
                        self._wake.clear()
                    case Turn.AWAY:
                        pause = min(2 * pause, self._pace.away_s)
                        stop.wait(pause)
            self._drain()
        finally:
            self._health.rest("relay")

    def _drain(self) -> None:
        """The last events of a worker that ends, which others may be waiting for; the rest is another relay's."""
        end = self._clock() + self._pace.drain_s
        while self._clock() < end:
            turn = self._turn()
            if turn is Turn.NOTHING or (turn is Turn.AWAY and not self._verdicts):
                return
            if turn is Turn.AWAY:
                time.sleep(self._pace.busy_s)

    def _turn(self) -> Turn:
        self._health.tick("relay")
        try:
            self._write()
            cluster = self._cluster or self._meet()
            # Who did not take the last batch is asked with one event, not with all of them.
            most = 1 if self._unproven else self._pace.most
            events = self._lease(cluster, most)
            if events:
                try:
                    self._publish(events)
                finally:
                    self._write()
            if events and self._unproven:
                self._unproven, self._next_look = False, self._clock()
            if self._clock() >= self._next_look:
                self._look(cluster)
            if not self._unproven:
                self._away.over()
        except BrokerAway as error:
            self._cluster = None
            self._unproven = True
            self._away.begins(error)
            self._health.report("outbox", ok=False, why=f"{self._away.why}: {error}")
            self._measure_meanwhile()
            return Turn.AWAY
        except DatabaseError as error:
            self._lost.begins(error)
            self._health.report("outbox", ok=False, why=self._lost.why)
            self._metrics.count("database_errors_total", what="relay")
            self._next_look = self._clock()
            return Turn.AWAY
        if not events:
            return Turn.NOTHING
        return Turn.FULL if len(events) >= most else Turn.SOME

    def _meet(self) -> str:
        """Asks the broker who it is: after an outage another cluster may answer at the same address."""
        # First without it: events are to be written from now on, however long the broker is away.
        self._ensure(None)
        cluster = self._publisher.cluster_id()
        self._ensure(cluster)
        self._cluster = cluster
        self._next_look = self._clock()
        return cluster

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._database.transaction() as connection:
            yield connection
        self._lost.over()

    def _ensure(self, cluster: str | None) -> None:
        with self._transaction() as connection:
            for name, topic in self._topics.items():
                destinations.ensure(connection, name, topic, cluster)

    def _lease(self, cluster: str, most: int) -> list[Event]:
        with self._transaction() as connection:
            return outbox.lease(
                connection, self.id, cluster, most=most, for_s=self._pace.lease_s, without=self._closed_now()
            )

    def _closed_now(self) -> list[str]:
        now = self._clock()
        return [name for name, (until, _) in self._closed.items() if until > now]

    def _publish(self, events: Sequence[Event]) -> None:
        """Raises BrokerAway; what became of the events is in hand then, too."""
        # One bad record costs its whole batch time: those that were refused before go by themselves.
        parts = [[e for e in events if not e.tries], [e for e in events if e.tries]]
        while part := next(filter(None, parts), None):
            try:
                records = [outgoing(event) for event in part]
                answers = self._publisher.publish(records)
            except BrokerAway:
                self._verdicts.unknown += [event.seq for left in parts for event in left]
                raise
            parts.append(self._judge(part, [len(record.value) for record in records], answers))
            part.clear()

    def _judge(self, events: Sequence[Event], sizes: Sequence[int], answers: Sequence[Refusal | None]) -> list[Event]:
        """Returns what of the events is to be published instead: those that are too large, without their results."""
        arrived: list[Event] = []
        refused: list[tuple[Event, Refused]] = []
        postponed: list[Event] = []
        shorter: list[Event] = []
        for event, size, answer in zip(events, sizes, answers, strict=True):
            if answer is None:
                arrived.append(event)
            elif answer.fault is Fault.SIZE and (short := without_result(event)) is not None:
                shorter.append(short)
            elif answer.fault in (Fault.TOPIC, Fault.SILENCE):
                postponed.append(event)
                if answer.fault is Fault.TOPIC:
                    self._close(event, answer)
            else:
                error = f"{answer.code}: {answer.message} (an event of {size:,} bytes)"
                delay_s, last = self._backoff.delay_s(event.tries + 1), event.tries + 1 >= self._pace.tries
                refused.append((event, Refused(event.seq, error, delay_s, dead=last)))
        self._verdicts.delivered += [event.seq for event in arrived]
        self._verdicts.refused += [verdict for _, verdict in refused]
        self._verdicts.unknown += [event.seq for event in postponed]
        self._count("delivered", arrived)
        self._count("refused", [event for event, verdict in refused if not verdict.dead])
        self._count("dead", [event for event, verdict in refused if verdict.dead])
        self._count("postponed", postponed)
        self._open({event.destination for event in arrived})
        self._tell(refused, [a for a in answers if a is not None and a.fault is Fault.SILENCE])
        return shorter

    def _close(self, event: Event, answer: Refusal) -> None:
        """A topic that takes nothing: nothing is known against its events, and no others wait for it."""
        if event.destination not in self._closed:
            log.warning("a topic takes nothing; its events wait", destination=event.destination, error=answer.message)
        self._closed[event.destination] = (self._clock() + self._pace.away_s, answer.message)
        # Asked anew, the publisher makes what is missing, if it may.
        self._cluster = None

    def _open(self, names: Iterable[str]) -> None:
        for name in names:
            if self._closed.pop(name, None) is not None:
                log.info("the topic takes events again", destination=name)

    def _tell(self, refused: Sequence[tuple[Event, Refused]], silent: Sequence[Refusal]) -> None:
        """One line for all of them."""
        if silent:
            log.warning("events got no answer, trying again later", events=len(silent), error=silent[0].message)
        if refused:
            event, verdict = refused[0]
            facts = {"events": len(refused), "first": event.seq, "topic": event.target, "error": verdict.error}
            if dead := sum(verdict.dead for _, verdict in refused):
                log.error("events are dead: `mediamill outbox list --state dead`", dead=dead, **facts)
            else:
                log.warning("events were refused, trying again later", **facts)

    def _count(self, outcome: str, events: Sequence[Event]) -> None:
        for kind, n in Counter(event.kind for event in events).items():
            self._metrics.count("outbox_events_total", n, kind=kind, outcome=outcome)

    def _write(self) -> None:
        """Writes what became of events. Raises DatabaseError; the verdicts stay in hand then."""
        if not self._verdicts:
            return
        with self._transaction() as connection:
            outbox.delivered(connection, self.id, self._verdicts.delivered)
            outbox.refused(connection, self.id, self._verdicts.refused)
            # Not at once: the next one may be for a partition that answers.
            outbox.postpone(connection, self.id, self._verdicts.unknown, delay_s=self._pace.away_s)
        self._verdicts = _Verdicts()

    def _look(self, cluster: str) -> None:
        """Tells metrics and health how much waits, and what keeps it from going out."""
        mine = self._measure()
        if self._unproven and any(each.waiting for each in mine if each.enabled and each.cluster_id == cluster):
            return
        self._unproven = False
        elsewhere = [each for each in mine if each.enabled and each.cluster_id != cluster and each.name in self._topics]
        for each in mine:
            self._warn(each, cluster)
        troubles = [f"{name} takes nothing: {why}" for name, (_, why) in self._closed.items()]
        if elsewhere:
            troubles.append(
                f"this process is pointed at Kafka cluster {cluster}; it does not publish to "
                + ", ".join(f"{each.name}, which is on {each.cluster_id}" for each in elsewhere)
            )
        remarks = filter(None, map(_remark, mine))
        self._health.report("outbox", ok=not troubles, why="; ".join(troubles or remarks))

    def _measure(self) -> list[Backlog]:
        """How much waits for topics, told to metrics."""
        start = self._clock()
        with self._transaction() as connection:
            mine = [each for each in destinations.overview(connection) if each.kind == "topic"]
        self._metrics.set("outbox_waiting", sum(each.waiting for each in mine))
        self._metrics.set("outbox_dead", sum(each.dead for each in mine))
        # What is switched off is late because somebody wants it so.
        self._metrics.set("outbox_oldest_seconds", max((each.oldest_s for each in mine if each.enabled), default=0))
        # Counting takes time in proportion to what waits: it gets a fiftieth of it, at most.
        now = self._clock()
        self._next_look = now + max(self._pace.look_s, 50 * (now - start))
        return mine

    def _measure_meanwhile(self) -> None:
        """While the broker is away: then, above all, somebody wants to know how much waits."""
        if self._clock() >= self._next_look:
            with suppress(DatabaseError):  # the next turn meets it, and says so
                self._measure()

    def _warn(self, there: Backlog, cluster: str) -> None:
        """Says once what an operator should know about a destination of ours."""
        wanted = self._topics.get(there.name)
        if wanted is None:
            return
        said = ""
        if there.enabled and there.cluster_id != cluster:
            fix = f"point this process there, or `mediamill outbox target {there.name} --cluster {cluster}`"
            said = f"{there.name} is on Kafka cluster {there.cluster_id}, this process is pointed at {cluster}: {fix}"
        elif there.target != wanted:
            fix = f"`mediamill outbox target {there.name} {wanted}` changes it"
            said = f"{there.name} is published to {there.target}, not to {wanted} as the settings say: {fix}"
        if said and self._warned.get(there.name) != said:
            log.warning(said)
        self._warned[there.name] = said


def _remark(there: Backlog) -> str:
    words = []
    if not there.enabled:
        words.append(f"{there.name} is switched off")
    if there.dead:
        words.append(f"{there.dead} events for {there.name} are dead")
    return ", ".join(words)


class _Outage:
    """Something that is away: said once when it begins, and once when it is over."""

    def __init__(self, why: str, over: str) -> None:
        self.why = why
        self._over = over
        self.here = True

    def begins(self, error: Exception) -> None:
        if self.here:
            log.warning(self.why, error=str(error))
        self.here = False

    def over(self) -> None:
        if not self.here:
            log.info(self._over)
        self.here = True
