"""`mediamill submit`: one job from options, or many from a file of messages."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from console import job_view, output, sending, waiting
from console.compose import Deployment
from console.failures import Exit, refused
from console.message import Composed, compose_inputs, compose_params
from console.options import LANES, Moment, Pair, json_option, pairs
from console.uploads import local_file, upload
from handlers.registry import AnyHandler, Registry
from intake.identity import new_id
from intake.jsonl import read_jobs
from intake.message import JobSpec, parse
from intake.problems import Problem, Refused, describe, nearest
from intake.submit import BATCH, Accepted, Answer, Rejected, submit_lines
from storage import jobs
from storage.arrivals import Arrived
from storage.arrivals import Refused as Rejection
from storage.database import Database
from storage.submit import Admission, Submitted

if TYPE_CHECKING:
    from intake.kafka.submit import Sent

#: Options that are keys of the message under the same name.
_KEYS = (
    "id",
    "lane",
    "priority",
    "dedupe_key",
    "run_after",
    "deadline",
    "timeout_s",
    "max_attempts",
    "tenant",
    "output",
    "callback",
)


@click.command()
@click.argument("type_", metavar="TYPE", required=False)
@click.option("--input", "-i", "inputs", multiple=True, metavar="ROLE=URI|FILE", help="An input; a file is uploaded.")
@click.option("--param", "-p", "params", multiple=True, type=Pair(), help="A parameter of the type; JSON for lists.")
@click.option("--from", "source", metavar="FILE", help="Messages, one JSON object to a line; - for standard input.")
@click.option("--lane", type=click.Choice(LANES), help="Which queue; interactive by default.")
@click.option("--priority", type=int, help="-100 to 100; higher goes first.")
@click.option("--label", multiple=True, type=Pair(), help="A label, to find the job by.")
@click.option("--tenant", help="Whose job it is.")
@click.option("--id", "id_", metavar="UUID", help="The job's id; one is made by default.")
@click.option("--dedupe-key", help="No second job while one with this key is live or has succeeded.")
@click.option("--run-after", type=Moment(future=True), help="Not before: a time, or 10m from now.")
@click.option("--deadline", type=Moment(future=True), help="Not wanted after: a time, or 2h from now.")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Time limit of one attempt.")
@click.option("--max-attempts", type=int, help="Attempts that may fail.")
@click.option("--output", metavar="s3://BUCKET/PREFIX/", help="Where outputs go.")
@click.option("--callback", metavar="URL", help="Who is told when the job has ended.")
@click.option("--no-embed", is_flag=True, help="Images get no embedding.")
@click.option("--direct", is_flag=True, help="Straight into the database, past Kafka.")
@click.option("--wait", "-w", is_flag=True, help="Wait until the jobs have ended; exit code 1 if one failed.")
@json_option
def submit(
    type_: str | None, source: str | None, inputs: Sequence[str], params: Sequence[tuple[str, str]],
    direct: bool, wait: bool, as_json: bool, **given: Any,
) -> int:  # fmt: skip
    """Submit one job of TYPE, or many by --from.

    \b
    mediamill submit image.caption --input image=photo.jpg --param count=3 --wait
    mediamill submit image.embed --input s3://media/a.jpg --input s3://media/b.jpg
    mediamill submit --from jobs.jsonl

    Where MEDIAMILL_KAFKA_BOOTSTRAP is set, messages go to the topic of their lane and are acknowledged by Kafka before
    they count as sent; a worker makes jobs of them. `mediamill types TYPE` explains a type's inputs and parameters.
    """
    _check_usage(type_, source, inputs, params, given)
    with Deployment.load() as deployment:
        if source is not None:
            with _opened(source) as stream:
                lines = read_jobs(stream, deployment.registry, deployment.message_rules)
                return _submit(deployment, lines, Manner(direct, wait, as_json, many=True))
        assert type_ is not None
        composed = _compose(deployment, type_, inputs, pairs(params, "--param"), given)
        spec = parse(composed.message, deployment.registry, deployment.message_rules)
        for file in composed.files:
            if upload(deployment.store, file) and not as_json:
                output.note(f"uploaded {file.path} to {file.uri}", style="dim")
        return _submit(deployment, [(1, spec)], Manner(direct, wait, as_json, many=False))


def _check_usage(
    type_: str | None, source: str | None, inputs: Sequence[str], params: Sequence[Any], given: Mapping[str, Any]
) -> None:
    if (type_ is None) == (source is None):
        raise click.UsageError("name a TYPE, or a file of messages by --from; not both")
    if source is not None and (inputs or params or any(value not in (None, (), False) for value in given.values())):
        raise click.UsageError("with --from, all that is to be said of a job stands in its line")


def _compose(
    deployment: Deployment, type_: str, inputs: Sequence[str], params: Mapping[str, str], given: Mapping[str, Any]
) -> Composed:
    handler = _handler(deployment.registry, type_)
    placed, files = compose_inputs(handler, inputs, lambda path: local_file(path, deployment.uploads))
    message: dict[str, Any] = {"type": type_}
    if placed:
        message["inputs"] = placed
    if params:
        message["params"] = compose_params(handler, params)
    options = {**given, "id": given["id_"] or str(new_id())}
    for key in _KEYS:
        if (value := options[key]) is not None:
            message[key] = value.isoformat() if isinstance(value, datetime) else value
    if given["label"]:
        message["labels"] = pairs(given["label"], "--label")
    if given["no_embed"]:
        message["embed"] = False
    return Composed(message, files)


def _handler(registry: Registry, type_: str) -> AnyHandler:
    if type_ not in registry:
        raise refused(f"{type_} is no job type; {nearest(type_, registry)}")
    return registry[type_]


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 closed below
    except OSError as error:
        raise refused(f"--from {source}: {error.strerror or error}") from None
    with stream:
        yield stream


@dataclass(frozen=True, slots=True)
class Manner:
    """How it is done, and told."""

    direct: bool
    wait: bool
    as_json: bool
    many: bool


def _submit(deployment: Deployment, lines: Iterable[tuple[int, JobSpec | Refused]], manner: Manner) -> int:
    accepted: list[Accepted] = []
    rejected: list[Rejected] = []
    records: list[Sent] = []
    try:
        for answer in _answers(deployment, lines, manner, records):
            if not manner.as_json and not (manner.many and isinstance(answer, Accepted)):
                _tell(answer, manner.many)
            if isinstance(answer, Accepted):
                accepted.append(answer)
            else:
                rejected.append(answer)
    except Exception:
        if manner.many:
            # Sending all of it again would double the jobs whose messages name no id.
            last = max([one.line for one in accepted] + [one.line for one in rejected], default=0)
            output.note(f"all is done until line {last}; of up to {BATCH} lines behind it nobody knows", style="red")
        raise
    if manner.many and not manner.as_json:
        verb = "sent to Kafka" if records else "submitted"
        output.line(f"{len(accepted)} {verb}, {len(rejected)} refused{_known(accepted)}")
    states: Mapping[uuid.UUID, str] = {}
    if manner.wait:
        if records:
            accepted, late = _arrived(deployment, accepted, records, manner)
            rejected += late
        jobs_ = [answer.submitted.job_id for answer in accepted]
        states = waiting.wait_for(deployment.database, jobs_, quiet=manner.as_json)
    if manner.as_json:
        ended = _ended(deployment.database, accepted, manner.many) if manner.wait else {}
        output.print_json(_as_json(accepted, rejected, ended))
    elif manner.wait:
        waiting.tell(deployment.database, states, details=not manner.many)
    if rejected:
        return Exit.REFUSED
    return Exit.JOB_FAILED if any(state != "succeeded" for state in states.values()) else Exit.DONE


def _answers(
    deployment: Deployment, lines: Iterable[tuple[int, JobSpec | Refused]], manner: Manner, records: list[Sent]
) -> Iterator[Answer]:
    """By Kafka, where it is configured; what it has is added to `records`."""
    if manner.direct or deployment.settings.kafka_bootstrap is None:
        yield from submit_lines(deployment.database, lines)
        return
    from intake.kafka.submit import Sent, send_lines

    for answer in send_lines(deployment.publisher, lines, deployment.settings.lane_topics):
        if isinstance(answer, Sent):
            records.append(answer)
            yield Accepted(answer.line, answer.spec, Submitted(Admission.SENT, answer.id))
        else:
            yield answer


def _arrived(
    deployment: Deployment, accepted: Sequence[Accepted], records: Sequence[Sent], manner: Manner
) -> tuple[list[Accepted], list[Rejected]]:
    """What became of messages that were sent: those that a worker rejected, and of the others the jobs."""
    from intake.kafka.submit import gone_by

    options, settings = deployment.kafka, deployment.settings
    assert options is not None
    gone = partial(gone_by, options, settings.lane_topics, settings.kafka_group)
    found = sending.wait_for_arrival(deployment.database, records, gone, quiet=manner.as_json)
    there, rejected = [], []
    for answer, record in zip(accepted, records, strict=True):
        match found[record.record_id]:
            case Arrived(job_id):
                own = job_id == answer.submitted.job_id
                admission = Admission.SENT if own else Admission.DEDUPLICATED
                there.append(Accepted(answer.line, answer.spec, Submitted(admission, job_id)))
            case Rejection(problems):
                late = Rejected(answer.line, [Problem.from_json(problem) for problem in problems])
                rejected.append(late)
                if not manner.as_json:
                    _tell(late, manner.many)
    return there, rejected


def _tell(answer: Answer, many: bool) -> None:
    if isinstance(answer, Rejected):
        for words in describe(answer.problems):
            output.note(f"line {answer.line}: {words}" if many else f"mediamill: {words}", style="red")
        return
    said = {
        Admission.DUPLICATE: "  (the same job was there already)",
        Admission.DEDUPLICATED: "  (this job holds the dedupe key)",
    }.get(answer.submitted.admission, "")
    output.line(f"{answer.submitted.job_id}{said}")


def _known(accepted: Sequence[Accepted]) -> str:
    fresh = (Admission.INSERTED, Admission.SENT)
    known = sum(answer.submitted.admission not in fresh for answer in accepted)
    return f" ({known} of them were there already)" if known else ""


def _ended(database: Database, accepted: Sequence[Accepted], many: bool) -> Mapping[uuid.UUID, Mapping[str, Any]]:
    """Of one job all that `jobs show` has, of many what `jobs list` has."""
    ids = [answer.submitted.job_id for answer in accepted]
    if many:
        return waiting.records(database, ids)
    with database.transaction() as connection:
        records = {id_: jobs.show(connection, id_) for id_ in ids}
    return {id_: job_view.as_json(record) for id_, record in records.items() if record is not None}


def _as_json(
    accepted: Sequence[Accepted], rejected: Sequence[Rejected], ended: Mapping[uuid.UUID, Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "submitted": [
            {
                "line": answer.line,
                "id": answer.submitted.job_id,
                "type": answer.spec.type,
                "lane": answer.spec.lane,
                "admission": answer.submitted.admission,
                **ended.get(answer.submitted.job_id, {}),
            }
            for answer in accepted
        ],
        "refused": [
            {"line": answer.line, "problems": [problem.as_json() for problem in answer.problems]} for answer in rejected
        ],
    }
