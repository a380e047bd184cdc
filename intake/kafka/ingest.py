"""Messages of the lanes' topics into the tables: one thread, which lives through whatever Kafka and Postgres do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import structlog
from kafka.errors import KafkaError

from config.lanes import Lane
from handlers.registry import Registry
from intake.kafka import topics
from intake.kafka.cap import Caps
from intake.kafka.consumer import GroupConsumer
from intake.kafka.diagnosis import asking
from intake.kafka.errors import BadTopic, KafkaTrouble, NotAllowed, plain
from intake.kafka.judge import Judge
from intake.kafka.options import KafkaOptions
from intake.kafka.reading import Reading
from intake.kafka.reads import Reads
from intake.kafka.signals import RebuildReason, Signals
from intake.kafka.state import State, Trouble
from intake.kafka.store import Placing, Storage
from intake.kafka.watch import Stuck
from intake.message import Rules
from storage.database import Database, DatabaseError
from storage.ingest import unacknowledged
from storage.objects.errors import ObjectError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: Between two looks at how many lost ranges nobody has acknowledged.
LOST_EACH_S = 30.0

#: Between two tries to make topics that could not be made, while others are read.
PREPARE_EACH_S = 60.0

OpenConsumer = Callable[[KafkaOptions, Reads], GroupConsumer]


class Ingest:
    """Reads the lanes' topics until it is told to stop."""

    def __init__(
        self,
        options: KafkaOptions,
        reads: Reads,
        database: Database,
        registry: Registry,
        rules: Mapping[Lane, Rules],
        *,
        build: str,
        place: Placing,
        signals: Signals,
        prepare: Callable[[], object] = lambda: None,
        revalidate: Callable[[], bool] = lambda: False,
        open_consumer: OpenConsumer = GroupConsumer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rules`: of each lane, with that lane as the door's; `build`: of `build_of`; `place`: `Overflow.place`.

        `prepare` makes the topics that are missing, and may raise KafkaTrouble; it is called before each consumer is
        made, and now and then while it did not succeed. `revalidate` looks again at some rejections that this build may
        know, and says whether there may be more.
        """
        self._options = options
        self._reads = reads
        self._database = database
        self._signals = signals
        self._prepare = prepare
        self._revalidate = revalidate
        self._open = open_consumer
        self._clock = clock
        self._judge = Judge(registry, rules, build)
        self._storage = Storage(database, self._judge, place)
        self._caps = Caps(database, reads.lane_cap, clock)
        self._state = State(signals)
        self._revalidate_at = self._lost_at = clock()
        self._prepare_at = float("inf")

    def run(self, stop: threading.Event) -> None:
        """In a thread of the caller's. Servers that are away are waited for; returns soon after `stop` is set."""
        wait_s = 0.0
        while not stop.is_set():
            self._signals.pulse()
            self._maintain()
            began = self._clock()
            if not self._life(stop):
                # A consumer that has worked for long is not the one that failed before.
                wait_s = 0.0 if self._clock() - began > self._reads.stuck_s else wait_s
                wait_s = min(2 * wait_s or self._reads.wait_s, self._reads.most_wait_s)
                stop.wait(wait_s)

    def _life(self, stop: threading.Event) -> bool:
        """One consumer; False where the next one should wait a little."""
        consumer = self._opened()
        if consumer is None:
            return False
        reading = Reading(
            consumer,
            self._reads,
            judge=self._judge,
            storage=self._storage,
            caps=self._caps,
            state=self._state,
            signals=self._signals,
            clock=self._clock,
        )
        try:
            reading.run(stop, self._maintain)
        except Stuck as stuck:
            self._rebuild("stuck", str(stuck))
        except KafkaError as error:
            self._signals.failed("kafka")
            self._state.trouble(Trouble.KAFKA, plain(error))
            self._rebuild("error", plain(error))
            return False
        finally:
            _close(consumer)
        return True

    def _opened(self) -> GroupConsumer | None:
        try:
            self._prepare_topics()
            with asking(self._options, "joining the group"):
                return self._open(self._options, self._reads)
        except KafkaTrouble as error:
            self._signals.failed("kafka")
            self._state.trouble(Trouble.KAFKA, str(error))
            return None

    def _prepare_topics(self) -> None:
        self._prepare_at = float("inf")
        try:
            self._prepare()
        except (BadTopic, NotAllowed) as error:
            if not topics.present(self._options, list(self._reads.topics.values())):
                raise
            # One lane without its topic is no reason to read none.
            log.warning("topics are missing, the others are read", why=str(error))
            self._prepare_at = self._clock() + PREPARE_EACH_S

    def _rebuild(self, reason: RebuildReason, why: str) -> None:
        log.error("the consumer is made anew", reason=reason, why=why)
        self._signals.rebuilt(reason)

    def _maintain(self) -> None:
        """What is done in between, Kafka or not."""
        now = self._clock()
        if now >= self._revalidate_at:
            pause = self._reads.revalidate_s
            try:
                if self._revalidate():
                    pause = 0.0
            except DatabaseError as error:
                log.warning("rejections could not be validated again, later", error=str(error))
                pause = self._reads.most_wait_s
            except ObjectError as error:
                # Not soon: a store that does not answer stops this thread for as long as it is asked.
                log.warning("rejections could not be validated again, later", error=str(error))
            self._revalidate_at = self._clock() + pause
        if now >= self._prepare_at:
            try:
                self._prepare_topics()
            except KafkaTrouble as error:
                log.debug("topics could not be made", why=str(error))
                self._prepare_at = now + PREPARE_EACH_S
        if now >= self._lost_at:
            self._lost_at = now + LOST_EACH_S
            try:
                with self._database.transaction() as connection:
                    self._signals.lost_ranges(unacknowledged(connection))
            except DatabaseError as error:
                log.debug("lost ranges could not be counted", error=str(error))


def _close(consumer: GroupConsumer) -> None:
    try:
        consumer.close()
    except KafkaError as error:
        log.info("the consumer did not leave the group in order", error=plain(error))
