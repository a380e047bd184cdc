"""The life of one consumer: poll, validate, store in one transaction, commit exactly those offsets; over and over.

What is stored is stored in the order it was read in, one batch at a time. A batch that cannot be stored is held: all
partitions are paused, polling goes on so that the group keeps us, and it is tried until it is stored, so that no offset
is ever committed over a hole. After each rebalance everything in hand is dropped and read again from what is committed:
whoever has the partitions now does the same, and a job is known by its identity.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import structlog
from kafka.errors import RetriableError

from config.lanes import Lane
from intake.kafka.cap import Caps
from intake.kafka.consumer import GroupConsumer, Membership, NotOurs
from intake.kafka.errors import plain
from intake.kafka.judge import Judge
from intake.kafka.positions import Committed, Extent, Partition, Positions, Why, begin
from intake.kafka.reads import Reads
from intake.kafka.record import Arrived
from intake.kafka.signals import Outcome, Signals
from intake.kafka.state import State, Trouble
from intake.kafka.store import Batch, Judged, Storage
from intake.kafka.watch import StuckWatch
from storage.database import DatabaseError
from storage.objects.errors import ObjectError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Reading:
    """One consumer, from its first poll to its last. Of one thread."""

    def __init__(
        self,
        consumer: GroupConsumer,
        reads: Reads,
        *,
        judge: Judge,
        storage: Storage,
        caps: Caps,
        state: State,
        signals: Signals,
        clock: Callable[[], float],
    ) -> None:
        self._consumer = consumer
        self._reads = reads
        self._judge = judge
        self._storage = storage
        self._caps = caps
        self._state = state
        self._signals = signals
        self._clock = clock
        self._lanes: Mapping[str, Lane] = {topic: lane for lane, topic in reads.topics.items()}
        self._membership: Membership | None = None
        self._positions = Positions()
        self._batch: Batch | None = None
        """Read and not stored yet."""
        self._retry_at = self._wait_s = 0.0
        self._stored: dict[Partition, Committed] = {}
        """Stored and not committed yet."""
        self._paused: set[Partition] = set()
        self._draining: set[Partition] = set()
        """Partitions whose next messages expired: read to the end of what the client has of them, cap or not."""
        self._survey_at = 0.0
        self._watch = StuckWatch(reads.stuck_s)

    def run(self, stop: threading.Event, maintain: Callable[[], None]) -> None:
        """Turns until it is told to stop; `maintain` is called at each turn.

        Raises Stuck, and KafkaError for what waiting does not mend: the consumer is to be made anew then.
        """
        while not stop.is_set():
            self._signals.pulse()
            maintain()
            self.turn()
        if self._batch is not None:
            self._store(self._batch)
        elif self._stored:
            self._commit()

    def turn(self) -> None:
        """One poll, and what follows from it."""
        self._pause()
        try:
            arrived = self._consumer.poll(self._patience_s())
            membership = self._consumer.membership()
            if membership != self._membership:
                self._begin(membership)
                return
            if arrived and (self._batch is not None or not arrived.keys() <= membership.partitions):
                raise RetriableError("records came that are not to be read now")
            if self._batch is None and (arrived or self._draining):
                self._batch = self._read(arrived)
        except RetriableError as error:
            # Which records the client has passed is not known now: all is read again from what is committed.
            self._membership = None
            self._signals.failed("kafka")
            self._state.trouble(Trouble.KAFKA, plain(error))
            self._survey_at = 0.0
        now = self._clock()
        if self._batch is not None and now >= self._retry_at:
            self._store(self._batch)
        elif self._stored:
            self._commit()
        if now >= self._survey_at:
            self._survey_at = now + self._reads.survey_s
            self._survey()

    def _begin(self, membership: Membership) -> None:
        """After a rebalance, or when a topic was made anew: from the committed offsets."""
        self._drop_what_is_in_hand()
        here = sorted(membership.partitions)
        extents = self._consumer.extents(here)
        batch = Batch(self._consumer.cluster_id)
        for partition in here:
            extent, committed = extents[partition], self._consumer.committed(partition)
            beginning = begin(committed, extent)
            self._positions.begin(partition, extent.topic_id, beginning.offset)
            self._consumer.seek(partition, beginning.offset)
            if beginning.why is Why.GOES_ON or beginning.why is Why.FIRST or committed is None:
                continue
            batch.offsets[partition] = beginning.offset
            if beginning.why is Why.ANEW:
                said = {"topic": partition.topic, "partition": partition.partition, "committed": committed.offset}
                log.warning("the topic was made anew, it is read from its start", **said, start=extent.start)
            else:
                batch.lost.append(self._positions.loss(partition, committed.offset, extent.start))
        self._batch = batch if batch else None
        self._membership = membership
        self._survey_at = 0.0
        if here:
            log.info("partitions are read", partitions=len(here), generation=membership.generation)

    def _drop_what_is_in_hand(self) -> None:
        self._membership = None
        self._positions = Positions()
        self._batch = None
        self._stored.clear()
        self._draining.clear()
        self._retry_at = self._wait_s = 0.0
        self._watch.forget()

    def _read(self, arrived: Mapping[Partition, list[Arrived]]) -> Batch | None:
        batch = Batch(self._consumer.cluster_id)
        for partition, records in arrived.items():
            gaps = self._positions.read(partition, [record.offset for record in records])
            if gaps:
                self._lose(batch, partition, gaps)
            self._draining.discard(partition)
            batch.judged += [Judged(record, self._judge(record, batch.cluster_id)) for record in records]
            batch.offsets[partition] = self._positions[partition].next
        self._pass(batch, self._draining)
        return batch if batch else None

    def _pass(self, batch: Batch, partitions: Iterable[Partition]) -> None:
        """Follows the client where it went on without giving us anything.

        Over marks of transactions, over what they have taken back, and to the start of the log where ours had expired.
        """
        for partition in list(partitions):
            position = self._consumer.position(partition)
            if position is not None and position > (first := self._positions[partition].next):
                self._lose(batch, partition, [(first, position)])
                self._positions[partition].next = batch.offsets[partition] = position
                self._draining.discard(partition)

    def _lose(self, batch: Batch, partition: Partition, gaps: list[tuple[int, int]]) -> None:
        """What of gaps is before the start of the log had expired; the rest never were messages."""
        start = self._consumer.extents([partition])[partition].start
        batch.lost += [self._positions.loss(partition, first, min(end, start)) for first, end in gaps if first < start]

    def _store(self, batch: Batch) -> None:
        try:
            outcomes = self._storage.write(batch)
        except (DatabaseError, ObjectError) as error:
            store = isinstance(error, ObjectError)
            self._signals.failed("store" if store else "database")
            self._state.trouble(Trouble.HELD, f"{'the object store' if store else 'the database'}: {error}")
            self._wait_s = min(2 * self._wait_s or self._reads.wait_s, self._reads.most_wait_s)
            self._retry_at = self._clock() + self._wait_s
            return
        self._batch, self._wait_s, self._retry_at = None, 0.0, 0.0
        self._state.over(Trouble.HELD)
        for (lane, outcome), messages in outcomes.items():
            self._signals.received(lane, outcome, messages)
            log.debug("messages are stored", lane=lane, outcome=outcome.value, messages=messages)
            if outcome is Outcome.JOB:
                self._caps.added(lane, messages - batch.scheduled(lane))
        for lost in batch.lost:
            self._signals.lost(self._lanes[lost.topic], lost.messages)
            log.error(
                "messages expired before they were read", topic=lost.topic, partition=lost.partition,
                first=lost.first_offset, end=lost.end_offset,
            )  # fmt: skip
        for partition, offset in batch.offsets.items():
            self._stored[partition] = Committed(offset, self._positions[partition].topic_id)
        self._commit()

    def _commit(self) -> None:
        try:
            self._consumer.commit(self._stored)
        except NotOurs as error:
            log.info("offsets are not committed, the group was rebalanced; they will be read again", error=str(error))
        except RetriableError as error:
            # They stay stored, and are committed with the next ones.
            self._signals.failed("kafka")
            self._state.trouble(Trouble.KAFKA, f"offsets are not committed: {plain(error)}")
            return
        self._stored.clear()

    def _pause(self) -> None:
        """Anew at each turn: a rebalance forgets what is paused, and gives us what is not."""
        assigned = self._consumer.assignment()
        held = self._batch is not None
        lanes = {self._lanes[one.topic] for one in assigned}
        full = set() if held else {lane for lane in lanes if self._caps.full(lane)}
        paused = {one for one in assigned if held or (self._lanes[one.topic] in full and one not in self._draining)}
        self._consumer.pause(paused)
        self._paused = paused
        for lane in self._reads.topics:
            self._state.paused(lane, "held", held and lane in lanes)
            self._state.paused(lane, "cap", lane in full)

    def _patience_s(self) -> float:
        if self._batch is None:
            return self._reads.poll_s
        return min(max(0.0, self._retry_at - self._clock()), self._reads.poll_s)

    def _survey(self) -> None:
        """How much there is of each partition: for the lag, for what expired unread, for a consumer that is stuck."""
        missing = self._consumer.missing()
        if missing:
            self._state.trouble(Trouble.TOPICS, f"there is no topic {', '.join(missing)}")
        else:
            self._state.over(Trouble.TOPICS)
        asked = [one for one in self._positions if one.topic not in missing]
        try:
            # Without partitions of its own it still shows whether a broker answers.
            ours = asked or [Partition(topic, 0) for topic in self._lanes if topic not in missing][:1]
            extents = self._consumer.extents(ours)
            if self._batch is None:
                passed = Batch(self._consumer.cluster_id)
                self._pass(passed, asked)
                self._batch = passed if passed else None
        except RetriableError as error:
            self._signals.failed("kafka")
            self._state.trouble(Trouble.KAFKA, f"no answer: {plain(error)}")
            self._watch.forget()
            return
        if not self._stored:
            self._state.over(Trouble.KAFKA)
        self._measure({one: extents[one] for one in asked})

    def _measure(self, extents: Mapping[Partition, Extent]) -> None:
        lags: dict[Lane, int] = defaultdict(int)
        for partition, extent in extents.items():
            next_ = self._positions[partition].next
            lags[self._lanes[partition.topic]] += max(0, extent.end - next_)
            if next_ < extent.start and partition not in self._draining:
                log.error("messages expire before they are read", topic=partition.topic, partition=partition.partition)
                self._draining.add(partition)
            free = self._batch is None and partition not in self._paused
            self._watch.look(partition, next_, extent.end, free=free, now=self._clock())
        for judged in self._batch.judged if self._batch else ():
            lags[judged.arrived.lane] += 1
        for lane in self._reads.topics:
            self._signals.lag(lane, lags[lane])
