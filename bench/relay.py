"""How many events a second one relay takes from the outbox to Kafka: `python -m bench.relay`.

The tests' servers, with fsync and synchronous_commit on: one Postgres, one broker, all acknowledgements waited for;
events as jobs with a caption write them. All of them wait from the start: a backlog after an outage.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import threading
import time
import uuid
from contextlib import ExitStack

from console.publishing import KafkaEvents
from intake.kafka.options import KafkaOptions
from storage import destinations, schema
from storage.database import Database
from storage.pooled import PooledDatabase
from storage.settle import Ending, Rules, Settlement, settle
from storage.submit import NewJob, submit
from tests.servers.kafka import Kafka, KafkaServer
from tests.servers.postgres import PostgresServer
from worker.health import Health
from worker.metrics import Metrics
from worker.relay import Pace, Relay

PART = 500
RESULT = {"captions": [{"text": "a red bicycle leans against a wall", "score": 0.91}], "checkpoint": "blip-base"}


def fill(database: Database, events: int) -> None:
    """So many ends of jobs, by the statements that write them."""
    for _ in range(0, events, PART):
        ids = [uuid.uuid4() for _ in range(PART)]
        submit(
            database,
            [NewJob(id=id_, type="bench", lane="backfill", body_sha256=bytes(32), message={}) for id_ in ids],
        )
        ends = [Settlement(id_, 0, Ending.REFUSED, from_state="queued", error=RESULT) for id_ in ids]
        with database.transaction() as connection:
            settle(connection, ends, Rules())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--relays", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="print where the first relay's time goes")
    given = parser.parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer({"fsync": "on", "full_page_writes": "on"}))
        database = PooledDatabase(server.create_database("bench"))
        stack.callback(database.close)
        kafka = Kafka(stack.enter_context(KafkaServer()))
        stack.callback(kafka.close)
        schema.migrate(database)
        topics = {destinations.RESULTS: kafka.create("results", 12)}
        with database.transaction() as connection:
            destinations.ensure(connection, destinations.RESULTS, topics[destinations.RESULTS], kafka.server.cluster_id)
        fill(database, given.events)
        relays = [
            Relay(
                database,
                stack.enter_context(KafkaEvents(KafkaOptions((kafka.bootstrap,)))),
                topics=topics,
                health=Health(),
                metrics=Metrics(),
                pace=Pace(drain_s=3600),  # stopped before they start: they end when nothing is left
            )
            for _ in range(given.relays)
        ]
        stop = threading.Event()
        stop.set()
        profile = cProfile.Profile()
        threads = [threading.Thread(target=relay.run, args=(stop,)) for relay in relays[1:]]
        started, used = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        if given.profile:
            profile.runcall(relays[0].run, stop)
        else:
            relays[0].run(stop)
        for thread in threads:
            thread.join()
        took, used = time.perf_counter() - started, time.process_time() - used
        arrived = sum(kafka.ends(topics[destinations.RESULTS]).values())
        print(f"{arrived:,} events in {took:.1f} s: {arrived / took:,.0f}/s, {used / arrived * 1e6:.0f} µs of CPU each")
        if given.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
