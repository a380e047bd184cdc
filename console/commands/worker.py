"""`mediamill worker`: the daemon."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from functools import partial

import anyio
import click
import structlog

from config.settings import Settings
from console import logs
from console.assembly import worker_parts
from console.compose import Deployment
from console.failures import refused
from worker.background import Background
from worker.daemon import Beside, serve
from worker.health import Health, Part
from worker.health_server import HealthServer
from worker.metrics import Metrics
from worker.sandbox import set_undumpable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Role(StrEnum):
    """What a worker process does."""

    INGEST = "ingest"
    """Makes jobs of messages that come by Kafka."""
    WORK = "work"
    """Runs jobs."""
    RELAY = "relay"
    """Publishes what became of jobs."""


#: What each role has to report on before the process is ready.
_PARTS: dict[Role, Sequence[Part]] = {
    Role.INGEST: ("kafka",),
    Role.WORK: ("database", "executor"),
    Role.RELAY: ("outbox",),
}


@click.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice([role.value for role in Role]),
    help="Only this part of a worker; may be repeated. All by default.",
)
def worker(roles: Sequence[str]) -> None:
    """Run jobs until told to stop, and with Kafka: read messages, publish results.

    SIGTERM or Ctrl-C drains: nothing more is claimed, what runs may finish within MEDIAMILL_DRAIN_GRACE_S. A second
    signal leaves at once. An embedded database is migrated at the start; a configured one never: `mediamill migrate`.
    """
    with Deployment.load() as deployment:
        logs.configure(deployment.settings)
        chosen = _chosen([Role(role) for role in roles], deployment.settings)
        _guard_credentials()
        health = Health(expected=[part for role in chosen for part in _PARTS[role]])
        metrics = Metrics()
        parts = worker_parts(deployment, health, metrics) if Role.WORK in chosen else None
        beside = _beside(deployment, chosen, health, metrics)
        with ExitStack() as held:
            if (address := deployment.settings.http_address) is not None:
                server = held.enter_context(HealthServer(health, metrics.text, address))
                log.info("health and metrics are served", host=address[0], port=server.port)
            log.info("roles", roles=[role.value for role in chosen])
            _collect_less()
            end = anyio.run(lambda: serve(parts, beside=beside))
        log.info("gone", end=end)


def _chosen(asked: Sequence[Role], settings: Settings) -> Sequence[Role]:
    """Those that were asked for, else all that there is something to do for. Raises CommandFailed."""
    if settings.kafka_bootstrap is not None:
        return list(dict.fromkeys(asked)) or list(Role)
    if needless := [role.value for role in asked if role is not Role.WORK]:
        raise refused(f"--role {needless[0]} is about Kafka: set MEDIAMILL_KAFKA_BOOTSTRAP")
    return [Role.WORK]


def _beside(deployment: Deployment, roles: Sequence[Role], health: Health, metrics: Metrics) -> Beside:
    if (options := deployment.kafka) is None:
        return Beside()
    from console.kafka_parts import KafkaParts
    from console.signals import IngestSignals

    kafka = KafkaParts(deployment, options)
    kafka.ensure_destinations()
    intake, outlet = [], []
    if Role.INGEST in roles:
        signals = IngestSignals(health, metrics)
        ingest = kafka.ingest(signals)
        intake.append(Background("ingest", ingest.run, failed=partial(signals.state, False), ended=signals.ended))
    if Role.RELAY in roles:
        relay = kafka.relay(health, metrics, random.Random())
        failed = partial(_report, health, "outbox")
        outlet.append(Background("relay", relay.run, wake=relay.wake, failed=failed))
    return Beside(intake, outlet, partial(_report, health, "draining", "the worker was told to stop"))


def _report(health: Health, part: Part, why: str) -> None:
    health.report(part, ok=False, why=why)


def _collect_less() -> None:
    """What start-up has made stays, and needs no look at every collection; what a job makes is freed without one.

    Without this, small jobs take a quarter more of the CPU.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _guard_credentials() -> None:
    """Before any child exists: what runs as the same user may else read the environment of this process."""
    try:
        set_undumpable()
    except OSError as error:
        log.warning("this process's environment is not closed to others of its user", error=str(error))
