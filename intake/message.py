"""From the bytes of a message to a job: the message contract, version 1 (docs/messages.md).

Everything is checked at the door, all of it at once: what passes here can be stored in Postgres and run.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from pydantic import ValidationError

from config.lanes import Lane
from config.settings import Settings
from handlers.declaration import Named, Params
from handlers.errors import InvalidInput
from handlers.registry import AnyHandler, Registry
from intake.decoding import decode, unstorable
from intake.explain import problems_of, wrong_places
from intake.fields import Message
from intake.problems import MOST_PROBLEMS, Code, Path, Problem, Refused, describe, nearest, safe, shorten
from intake.references import InputsCheck, Normal, bad_uri, shapes
from storage.objects.rules import Access, BucketRules
from storage.objects.uri import BadUri, ObjectPrefix

__all__ = ["JobSpec", "Problem", "Refused", "Rules", "canonical", "describe", "parse", "sha256_of"]

#: Characters of what a handler says of a message as a whole.
_SENTENCE = 1000
#: Longest name of a file under `output`: job id, attempt, worker, role, extension.
_OUTPUT_NAME = 160
#: Keys that a CloudEvents 1.0 envelope must have.
_ENVELOPE = ("specversion", "id", "source", "type")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a deployment, and the door that a message came through, say about it."""

    message_bytes: int
    nesting: int
    inputs_per_job: int
    max_attempts: int
    buckets: BucketRules
    """What jobs may read and write."""
    lane: Lane | None = None
    """The door's lane: a message that says another is refused. None: the message's, else `interactive`."""
    tenant: str = "default"
    """Of messages that name none."""
    checkpoints: Mapping[str, Collection[str]] | None = None
    """Of the catalogue, by name: the roles that each can take. None: any name passes."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        lane: Lane | None = None,
        tenant: str = "default",
        checkpoints: Mapping[str, Collection[str]] | None = None,
    ) -> Rules:
        """The rules of a deployment at a door."""
        return cls(
            message_bytes=settings.message_bytes,
            nesting=settings.nesting,
            inputs_per_job=settings.inputs_per_job,
            max_attempts=settings.max_attempts,
            buckets=BucketRules.parse(settings.s3_buckets),
            lane=lane,
            tenant=tenant,
            checkpoints=checkpoints,
        )


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A valid message: all that the tables of jobs hold of it. Times are in UTC."""

    id: uuid.UUID | None
    type: str
    tenant: str
    lane: Lane
    priority: int
    run_after: datetime | None
    deadline: datetime | None
    timeout_s: float | None
    """None: the setting's for the type, else the handler's, else the general one."""
    max_attempts: int
    dedupe_key: str | None
    checkpoints: tuple[str, ...]
    """What a worker must have: roles, and names of checkpoints where the message chooses."""
    message: Mapping[str, Any]
    """What the client said, and nothing else; of an envelope, its data."""
    params: Mapping[str, Any]
    """JSON, defaults filled in."""
    inputs: Mapping[str, Normal]
    """By role: a reference, a list or a map of them, each `{"uri": ..., "version_id"?, "etag"?, "sha256"?}`."""
    output: str | None
    """`s3://bucket/prefix/`; None: the setting's."""
    labels: Mapping[str, str]
    embed: bool
    callback: str | None
    body_sha256: bytes
    """32 bytes: sha256 of the canonical message without its id."""


def canonical(value: Any) -> str:
    """One text for equal JSON values: sorted keys, no white space (as RFC 8785, but with Python's numbers)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(message: Mapping[str, Any]) -> bytes:
    """What tells whether two messages with the same id are the same: 32 bytes."""
    said = canonical({key: value for key, value in message.items() if key != "id"})
    return hashlib.sha256(said.encode()).digest()


def parse(body: bytes | str | Mapping[str, Any], registry: Registry, rules: Rules) -> JobSpec:
    """The job that a message asks for: JSON text, or the value of it; bare, or in a CloudEvents 1.0 envelope.

    Raises Refused with everything that is wrong.
    """
    value, problems = _decoded(body, rules)
    message, base, envelope_problems = _unwrapped(value)
    problems += envelope_problems
    spec: JobSpec | None = None
    if message is not None:
        check = _Check(message, registry, rules, touched={problem.pointer.removeprefix(base) for problem in problems})
        spec = check.job_or_bug()
        known = {problem.pointer for problem in problems}
        found = (Problem(base + p.pointer, p.code, p.message, p.fix) for p in check.problems)
        problems += [problem for problem in found if problem.pointer not in known]
    if problems or spec is None:
        raise Refused(problems)
    return spec


def _decoded(body: bytes | str | Mapping[str, Any], rules: Rules) -> tuple[Any, list[Problem]]:
    if isinstance(body, bytes | str):
        return decode(body, most_bytes=rules.message_bytes, nesting=rules.nesting)
    value = dict(body)
    problems = list(unstorable(value, rules.nesting))
    if any(problem.code in (Code.TOO_DEEP, Code.NOT_JSON) for problem in problems):
        raise Refused(problems)
    if not problems:
        decode(canonical(value), most_bytes=rules.message_bytes, nesting=rules.nesting)
    return value, problems


def _unwrapped(value: Any) -> tuple[dict[str, Any] | None, str, list[Problem]]:
    """The message, the pointer to it, and what is wrong with the envelope around it."""
    if not isinstance(value, dict):
        return None, "", [Problem("", Code.NOT_AN_OBJECT, f"is {shorten(value)}", 'write {"type": ..., "inputs": ...}')]
    if "specversion" not in value:
        return value, "", []
    problems = [
        Problem(
            f"/{key}", Code.BAD_ENVELOPE, f"is {shorten(value.get(key))}", f"a CloudEvents envelope has a text as {key}"
        )
        for key in _ENVELOPE
        if not isinstance(value.get(key), str) or not value[key]
    ]
    if isinstance(value["specversion"], str) and value["specversion"] != "1.0":
        found = f"is {shorten(value['specversion'])}"
        problems.append(Problem("/specversion", Code.BAD_ENVELOPE, found, 'write "1.0"'))
    media_type = str(value.get("datacontenttype") or "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        found = f"is {shorten(value['datacontenttype'])}"
        problems.append(Problem("/datacontenttype", Code.BAD_ENVELOPE, found, "write application/json"))
    data = value.get("data")
    if isinstance(data, dict):
        return data, "/data", problems
    problems.append(
        Problem(
            "/data", Code.BAD_ENVELOPE, f"is {shorten(data) if 'data' in value else 'missing'}", "put the message here"
        )
    )
    return None, "", problems


def _names(handler: AnyHandler, inputs: Mapping[str, Any]) -> dict[str, Collection[str]]:
    """The names that each `Named` input has."""
    named = [role for role, declared in handler.inputs.items() if isinstance(declared, Named)]
    return {role: given.keys() if isinstance(given := inputs.get(role), dict) else () for role in named}


def _tell(type_: object) -> None:
    """Logs the exception at hand."""
    import structlog  # more to import than a short command does altogether, for what hardly ever happens

    structlog.get_logger(__name__).exception("the check of a message failed", type=shorten(type_))


class _Check:
    """One pass over a message that is a JSON object: `problems` says what is wrong."""

    def __init__(self, message: dict[str, Any], registry: Registry, rules: Rules, touched: Collection[str]) -> None:
        self.problems: list[Problem] = []
        self._message = message
        self._registry = registry
        self._rules = rules
        self._touched = touched
        """Pointers where no JSON value stands: nothing more can be said there."""

    def job_or_bug(self) -> JobSpec | None:
        """As `job`; a fault in the code of a job type is a problem of this message, and stops none that follow it."""
        try:
            return self.job()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - logged, and told as the refusal of this message
            _tell(self._message.get("type"))
            what = f"cannot be checked: the check of such messages fails here ({type(error).__name__})"
            fix = "a fault in the job type, its log says which: replay the message with a build that has none"
            self._say("", Code.CHECK_FAILED, what, fix)
            return None

    def job(self) -> JobSpec | None:
        """The job; None when there are problems."""
        said = self._said()
        handler = self._handler()
        inputs = InputsCheck(self._rules.buckets, self._rules.inputs_per_job)
        params: Params | None = None
        if handler is not None:
            given = self._message.get("inputs", {})
            if isinstance(given, dict):
                inputs.check(handler.type, handler.inputs, given)
            params = self._params(handler)
            if params is not None and isinstance(given, dict) and not inputs.problems:
                self._together(handler, params, given)
        if handler is not None and "inputs" not in self._message and inputs.problems:
            what = f"is missing: {handler.type} needs inputs"
            inputs.problems = [Problem("/inputs", Code.MISSING, what, f"write {shapes(handler.inputs)}")]
        self.problems += inputs.problems
        lane = self._lane()
        if isinstance(output := self._message.get("output"), str):
            self.problems += self._output(output)
        if said is None or handler is None or params is None or self.problems or self._touched:
            return None
        return self._spec(said, lane, handler, params, inputs.normal)

    def _together(self, handler: AnyHandler, params: Params, given: Mapping[str, Any]) -> None:
        try:
            found = handler.problems(params, _names(handler, given))
            self.problems += map(Problem.of, islice(found, MOST_PROBLEMS + 1))
        except InvalidInput as error:
            self.problems += map(Problem.of, error.problems)
            if not error.problems:
                self._say("", Code.BAD_VALUE, safe(error.message, _SENTENCE), "")

    def _spec(
        self, said: Message, lane: Lane, handler: AnyHandler, params: Params, inputs: Mapping[str, Normal]
    ) -> JobSpec:
        return JobSpec(
            id=said.id,
            type=said.type,
            tenant=said.tenant or self._rules.tenant,
            lane=lane,
            priority=said.priority,
            run_after=said.run_after,
            deadline=said.deadline,
            timeout_s=said.timeout_s,
            max_attempts=said.max_attempts or self._rules.max_attempts,
            dedupe_key=said.dedupe_key,
            checkpoints=tuple(sorted(handler.checkpoints(params))),
            message=self._message,
            params=params.model_dump(mode="json"),
            inputs=inputs,
            output=said.output,
            labels=said.labels,
            embed=said.embed,
            callback=said.callback,
            body_sha256=sha256_of(self._message),
        )

    def _said(self) -> Message | None:
        try:
            said = Message.model_validate(self._message)
        except ValidationError as error:
            self.problems += problems_of(error, Message, (), self._message, "a key of a message")
            return None
        if said.deadline is not None and said.run_after is not None and said.deadline <= said.run_after:
            what = f"is {shorten(self._message['deadline'])}, not after run_after"
            self._say("/deadline", Code.CONTRADICTION, what, f"write a time after {self._message['run_after']}")
        return said

    def _say(self, where: str, code: Code, message: str, fix: str) -> None:
        self.problems.append(Problem(where, code, message, fix))

    def _handler(self) -> AnyHandler | None:
        type_ = self._message.get("type")
        if isinstance(type_, str) and type_ in self._registry:
            return self._registry[type_]
        self.problems = [problem for problem in self.problems if problem.pointer != "/type"]
        if "type" not in self._message:
            self._say("/type", Code.MISSING, "is missing", nearest("", self._registry))
        elif not isinstance(type_, str):
            self._say("/type", Code.WRONG_TYPE, f"is {shorten(type_)}", nearest("", self._registry))
        else:
            self._say(
                "/type", Code.UNKNOWN_TYPE, f"is {shorten(type_)}, which is no job type", nearest(type_, self._registry)
            )
        return None

    def _params(self, handler: AnyHandler) -> Params | None:
        given = self._message.get("params", {})
        if not isinstance(given, dict) or any(where.startswith("/params/") for where in self._touched):
            return None
        model = handler.params_type()
        try:
            # As JSON, strictly: a list may become a tuple and a text an enum, but "5" is no number.
            params = model.model_validate_json(json.dumps(given), strict=True)
        except ValidationError as error:
            self.problems += problems_of(error, model, ("params",), given, f"a parameter of {handler.type}")
            self._beside(handler, given, wrong_places(error, given))
            return None
        self._checkpoint(handler, params)
        return params

    def _checkpoint(self, handler: AnyHandler, params: Params) -> None:
        """The checkpoint that the params choose must be there, and be one for what its role does."""
        name, known = getattr(params, "checkpoint", None), self._rules.checkpoints
        if known is None or not isinstance(name, str):
            return
        where = "/params/checkpoint"
        if name not in known:
            what = f"is {shorten(name)}, which is not in the catalogue"
            self._say(where, Code.UNKNOWN_CHECKPOINT, what, nearest(name, known))
            return
        # What the handler would use where the params chose none.
        by_default = handler.checkpoints(params.model_copy(update={"checkpoint": None})) - handler.checkpoints(params)
        if by_default and by_default.isdisjoint(known[name]):
            what = f"is {shorten(name)}, which is for {' and '.join(sorted(known[name])) or 'nothing'}"
            fitting = [other for other, roles in known.items() if not by_default.isdisjoint(roles)]
            self._say(
                where, Code.WRONG_CHECKPOINT, what, f"for {' or '.join(sorted(by_default))} {nearest('', fitting)}"
            )

    def _beside(self, handler: AnyHandler, params: Mapping[str, Any], wrong: Sequence[Path]) -> None:
        """What params and inputs together show, although some of the params are wrong: all of it at once."""
        inputs = self._message.get("inputs", {})
        if isinstance(inputs, dict):
            known = {problem.pointer for problem in self.problems}
            found = handler.problems_beside(params, wrong, _names(handler, inputs))
            more = map(Problem.of, islice(found, MOST_PROBLEMS + 1))
            self.problems += [problem for problem in more if problem.pointer not in known]

    def _lane(self) -> Lane:
        lane, door = self._message.get("lane"), self._rules.lane
        if door is not None and lane not in (None, door):
            what = f"is {shorten(lane)}, but the message came in lane {door}"
            self._say("/lane", Code.CONTRADICTION, what, "send it to the lane's own topic, or leave the lane out")
        return door or lane or "interactive"

    def _output(self, output: str) -> Iterator[Problem]:
        try:
            # Room for what is put behind it: job, attempt and the name of a file.
            example = ObjectPrefix.parse(output).object("0" * _OUTPUT_NAME)
        except BadUri as error:
            yield bad_uri(("output",), output, error, "write s3://bucket/prefix/")
            return
        if not self._rules.buckets.allows(example, Access.WRITE):
            what = f"is {shorten(output)}, where jobs may not write"
            yield Problem(
                "/output", Code.BUCKET_NOT_ALLOWED, what, "name a place that MEDIAMILL_S3_BUCKETS lets be written"
            )
