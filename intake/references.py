"""A message's `inputs`, checked against the shapes that a handler declares and made alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from handlers.declaration import Inputs, Many, Named, One
from intake.explain import problems_of
from intake.fields import Reference
from intake.problems import MOST_PROBLEMS, Code, Path, Problem, nearest, pointer, shorten
from storage.objects.rules import Access, BucketRules
from storage.objects.uri import BadUri, ObjectUri

Ref = dict[str, str]
"""`{"uri": ..., "version_id"?, "etag"?, "sha256"?}`"""
Normal = Ref | list[Ref] | dict[str, Ref]

EXAMPLE_URI = "s3://bucket/key"
_NAME_LENGTH = 100
_WANTED = {One: "one reference", Many: "a list of references", Named: "a map of references"}


def shape(declared: Inputs) -> str:
    """How an input is written: `"s3://bucket/key"`, `["s3://bucket/key", ...]`, `{"name": "s3://bucket/key", ...}`."""
    match declared:
        case One():
            return f'"{EXAMPLE_URI}"'
        case Many():
            return f'["{EXAMPLE_URI}", ...]'
        case Named():
            return f'{{"name": "{EXAMPLE_URI}", ...}}'


def shapes(declared: Mapping[str, Inputs]) -> str:
    """How a type's whole `inputs` is written."""
    return "{" + ", ".join(f'"{role}": {shape(inputs)}' for role, inputs in declared.items()) + "}"


def required(declared: Inputs) -> bool:
    """Whether the role must be there."""
    return isinstance(declared, One) or declared.at_least > 0


class InputsCheck:
    """One pass over the inputs of a message: `problems` says what is wrong, `normal` is what came of the rest."""

    def __init__(self, buckets: BucketRules, most: int) -> None:
        self.problems: list[Problem] = []
        self.normal: dict[str, Normal] = {}
        self._buckets = buckets
        self._most = most

    def check(self, type_: str, declared: Mapping[str, Inputs], inputs: Mapping[str, Any]) -> None:
        """Checks every role."""
        for role, value in inputs.items():
            if role in declared:
                self._role(("inputs", role), role, declared[role], value)
            else:
                self._say(("inputs", role), Code.UNKNOWN_INPUT, f"is not an input of {type_}", nearest(role, declared))
            if len(self.problems) > MOST_PROBLEMS:
                return
        for role, one in declared.items():
            if role not in inputs and required(one):
                self._say(("inputs", role), Code.MISSING, f"is missing: {type_} needs it", f"write {shape(one)}")
        count = sum(1 if isinstance(v, str) or not hasattr(v, "__len__") else len(v) for v in inputs.values())
        if count > self._most and not any(p.code is Code.TOO_MANY_INPUTS for p in self.problems):
            self._say(("inputs",), Code.TOO_MANY_INPUTS, f"holds {count:,}", f"give at most {self._most:,} in all")

    def _say(self, path: Path, code: Code, message: str, fix: str) -> None:
        self.problems.append(Problem(pointer(path), code, message, fix))

    def _role(self, path: Path, role: str, declared: Inputs, value: Any) -> None:
        if isinstance(declared, One) and isinstance(value, str | dict):
            if (ref := self._reference(path, value)) is not None:
                self.normal[role] = ref
        elif isinstance(declared, Many) and isinstance(value, list):
            if self._counted(path, declared, len(value)):
                self.normal[role] = list(self._list(path, value))
        elif isinstance(declared, Named) and isinstance(value, dict):
            if self._counted(path, declared, len(value)):
                self.normal[role] = dict(self._map(path, value))
        else:
            what = f"is {shorten(value)}, not {_WANTED[type(declared)]}"
            self._say(path, Code.WRONG_SHAPE, what, f"write {shape(declared)}")

    def _counted(self, path: Path, declared: Many | Named, count: int) -> bool:
        most = min(declared.at_most, self._most)
        if count < declared.at_least:
            self._say(path, Code.TOO_FEW_INPUTS, f"holds {count}", f"give at least {declared.at_least}")
        elif count > most:
            self._say(path, Code.TOO_MANY_INPUTS, f"holds {count:,}", f"give at most {most:,}")
        return count <= self._most

    def _list(self, path: Path, values: list[Any]) -> Iterator[Ref]:
        first: dict[tuple[tuple[str, str], ...], int] = {}
        for index, value in enumerate(values):
            ref = self._reference((*path, index), value)
            if ref is None:
                continue
            before = first.setdefault(tuple(ref.items()), index)
            if before != index:
                what = f"is the same as {pointer((*path, before))}"
                self._say((*path, index), Code.DUPLICATE_INPUT, what, "name each object once")
            yield ref

    def _map(self, path: Path, values: Mapping[str, Any]) -> Iterator[tuple[str, Ref]]:
        for name, value in values.items():
            here = (*path, name)
            if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
                self._say(here, Code.BAD_VALUE, "the name cannot be used", f"write 1 to {_NAME_LENGTH} characters")
            elif (ref := self._reference(here, value)) is not None:
                yield name, ref

    def _reference(self, path: Path, value: Any) -> Ref | None:
        """The reference at `path`, or None when it is wrong."""
        if isinstance(value, str):
            return self._uri(path, {"uri": value})
        if not isinstance(value, dict):
            fix = f'write {EXAMPLE_URI} or {{"uri": "{EXAMPLE_URI}"}}'
            self._say(path, Code.WRONG_SHAPE, f"is {shorten(value)}, not a reference", fix)
            return None
        try:
            reference = Reference.model_validate(value)
        except ValidationError as error:
            problems = problems_of(error, Reference, path, value, "a key of a reference")
            self.problems += problems
            here = (*path, "uri")
            if isinstance(value.get("uri"), str) and pointer(here) not in {problem.pointer for problem in problems}:
                self._uri(here, {"uri": value["uri"]})
            return None
        return self._uri((*path, "uri"), reference.model_dump(exclude_none=True))

    def _uri(self, path: Path, ref: Ref) -> Ref | None:
        try:
            uri = ObjectUri.parse(ref["uri"])
        except BadUri as error:
            self.problems.append(bad_uri(path, ref["uri"], error, f"write {EXAMPLE_URI}"))
            return None
        if not self._buckets.allows(uri, Access.READ):
            fix = "name a place that MEDIAMILL_S3_BUCKETS lets be read"
            self._say(path, Code.BUCKET_NOT_ALLOWED, f"is {shorten(ref['uri'])}, which jobs may not read", fix)
            return None
        return ref | {"uri": str(uri)}


def bad_uri(path: Path, text: str, error: BadUri, fix: str) -> Problem:
    """The error's sentence says what is wrong and, after a semicolon, what would be right."""
    what, _, right = str(error).partition("; ")
    return Problem(pointer(path), Code.BAD_URI, f"is {shorten(text)}, which {what}", right or fix)
