"""`mediamill ingest`: how far Kafka is read, what was lost there, and reading it again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from console import output
from console.compose import Deployment
from console.failures import refused
from console.options import Moment, json_option
from console.output import Column
from intake.kafka.backlog import backlog
from intake.kafka.options import KafkaOptions
from intake.kafka.rewind import rewind as set_back
from storage import ingest as store


@click.group()
def ingest() -> None:
    """Show how far Kafka is read, and what was lost there; read it again."""


@ingest.command()
@json_option
def status(as_json: bool) -> None:
    """How far each partition of the lanes' topics is read, and what waits in it."""
    with Deployment.load() as deployment:
        settings = deployment.settings
        found = backlog(_kafka(deployment), settings.lane_topics, settings.kafka_group)
    if as_json:
        output.print_json([{**asdict(one), "waiting": one.waiting} for one in found])
        return
    columns = (
        Column("lane"),
        Column("topic", shrinks=True),
        Column("partition"),
        Column("start"),
        Column("committed"),
        Column("end"),
        Column("waiting"),
    )
    rows = [
        (o.lane, o.topic, o.partition, o.start, "-" if o.committed is None else o.committed, o.end, o.waiting)
        for o in found
    ]
    output.table(columns, rows, empty="there is none of the lanes' topics yet")


@ingest.command()
@click.option("--acknowledge", is_flag=True, help="They are known: no alarm any more.")
@click.option("--topic", help="Only of this topic.")
@click.option("--all", "all_", is_flag=True, help="Those too that were acknowledged before.")
@json_option
def lost(acknowledge: bool, topic: str | None, all_: bool, as_json: bool) -> None:
    """Messages that expired in Kafka before they were read.

    Their senders have to send them again: nothing of them is left but the range of their offsets.
    """
    with Deployment.load() as deployment, deployment.database.transaction() as connection:
        found = [each for each in store.lost(connection, acknowledged=all_) if topic in (None, each.range.topic)]
        known = store.acknowledge(connection, topic) if acknowledge else 0
    if as_json:
        output.print_json(
            [
                {**asdict(each.range), "found_at": each.found_at, "acknowledged_at": each.acknowledged_at}
                for each in found
            ]
        )
        return
    columns = (
        Column("topic", shrinks=True),
        Column("partition"),
        Column("first_offset"),
        Column("end_offset"),
        Column("messages"),
        Column("found"),
        Column("acknowledged"),
    )
    rows = [
        (
            each.range.topic,
            each.range.partition,
            each.range.first_offset,
            each.range.end_offset,
            each.range.messages,
            output.moment(each.found_at),
            output.moment(each.acknowledged_at) if each.acknowledged_at else "-",
        )
        for each in found
    ]
    output.table(columns, rows, empty="nothing was lost")
    if acknowledge:
        output.line(f"{known} acknowledged")


@ingest.command()
@click.option("--since", type=Moment(), required=True, help="A time, or how long ago: 2030-01-31T12:00:00Z, 6h.")
@click.option("--dry-run", is_flag=True, help="Only say what would be read again.")
@json_option
def rewind(since: datetime, dry_run: bool, as_json: bool) -> None:
    """Read everything again that was sent since a time: after the database was restored to an earlier point.

    Stop all workers that read (--role ingest) before. What is a job already stays the one job that it is.
    """
    with Deployment.load() as deployment:
        settings = deployment.settings
        moved = set_back(_kafka(deployment), settings.lane_topics, settings.kafka_group, since, dry_run=dry_run)
    if as_json:
        output.print_json([asdict(one) for one in moved])
        return
    columns = (Column("lane"), Column("topic", shrinks=True), Column("partition"), Column("before"), Column("offset"))
    rows = [(one.lane, one.topic, one.partition, one.before, one.offset) for one in moved]
    output.table(columns, rows, empty="nothing of the lanes' topics was read before")


def _kafka(deployment: Deployment) -> KafkaOptions:
    if deployment.kafka is None:
        raise refused("this is about Kafka: set MEDIAMILL_KAFKA_BOOTSTRAP")
    return deployment.kafka
