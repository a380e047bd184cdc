"""What is sent: good messages in every form, the same again, others under their ids, and many kinds of bad ones."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from config.lanes import LANES, Lane

#: Limit of a message in deployments of chaos: one that is too large must still pass the broker.
MESSAGE_BYTES = 64 << 10
#: Of 100 messages.
BAD, DUPLICATES, CONFLICTS, DEDUPLICATED = 5.0, 2.0, 0.5, 0.5

Headers = tuple[tuple[str, bytes], ...]


class Fate(StrEnum):
    """What has to become of a message."""

    JOB = "job"
    DUPLICATE = "duplicate"
    """Id and body of one that was sent before."""
    DEDUPLICATED = "deduplicated"
    """Another id under a dedupe key that is held."""
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that is to be sent."""

    fate: Fate
    lane: Lane
    value: bytes | None
    kind: str
    """Of good ones what the job does, of bad ones what is wrong."""
    key: bytes | None = None
    headers: Headers = ()
    message: Mapping[str, Any] | None = None
    """Of good ones: without its envelope."""

    @property
    def id(self) -> str | None:
        """That the message names."""
        return None if self.message is None else self.message.get("id")


class Author:
    """Writes messages by chance, from a seed."""

    def __init__(self, rng: random.Random, pictures: Sequence[str]) -> None:
        """`pictures`: URIs of images."""
        self._rng = rng
        self._pictures = pictures
        self._named: list[Draft] = []
        """Good ones with an id, which may be sent again."""
        self._holders: list[Draft] = []
        """Those with a dedupe key."""

    def write(self, n: int) -> list[Draft]:
        """So many, in the order that they are to be sent in."""
        good = 100 - BAD - DUPLICATES - CONFLICTS - DEDUPLICATED
        makers: list[tuple[float, Callable[[], Draft]]] = [
            (good, self._good),
            (BAD, self._bad),
            (DUPLICATES, self._again),
            (CONFLICTS, self._conflict),
            (DEDUPLICATED, self._under_a_held_key),
        ]
        chosen = self._rng.choices([maker for _, maker in makers], [share for share, _ in makers], k=n)
        return [maker() for maker in chosen]

    # --- good ones ---

    def _good(self) -> Draft:
        kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
        message: dict[str, Any] = {"type": "test.noop", "max_attempts": 5}
        if kind == "output":
            message["params"] = {"output_bytes": self._rng.randint(1, 2000)}
        elif kind == "input":
            message["inputs"] = {"files": {"a": self._rng.choice(self._pictures)}}
        elif kind == "caption":
            picture = self._rng.choice(self._pictures)
            message |= {"type": "image.caption", "inputs": {"image": picture}, "params": {"max_tokens": 4}}
        elif kind == "held":
            message["dedupe_key"] = f"key-{self._rng.getrandbits(64)}"
        elif kind in _FAULTS:
            message |= {"type": "test.fault", "params": {"only_first_attempts": 1, **_FAULTS[kind]}}
            if kind == "sleep":
                message["params"]["seconds"] = round(self._rng.uniform(0.1, 1.5), 2)
            if kind == "bad":
                del message["params"]["only_first_attempts"]
        if kind == "held" or self._rng.random() < 0.9:
            message["id"] = self._id()
        lane = self._rng.choice(LANES)
        if self._rng.random() < 0.3:
            message["lane"] = lane
        draft = self._enclosed(kind, lane, message)
        if draft.id is not None:
            (self._holders if kind == "held" else self._named).append(draft)
        return draft

    def _enclosed(self, kind: str, lane: Lane, message: Mapping[str, Any], fate: Fate = Fate.JOB) -> Draft:
        """Bare, or as an event in one of its two modes; keyed by its id, so that those of one id keep their order."""
        key = message["id"].encode() if "id" in message else None
        form = self._rng.choices(["bare", "structured", "binary"], [80, 10, 10])[0]
        event = {"specversion": "1.0", "id": self._id(), "source": "/chaos", "type": "media.arrived"}
        if form == "structured":
            return Draft(fate, lane, _json({**event, "data": message}), kind, key, (), message)
        headers = tuple((f"ce_{name}", value.encode()) for name, value in event.items()) if form == "binary" else ()
        return Draft(fate, lane, _json(message), kind, key, headers, message)

    def _id(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    # --- those that are no job of their own ---

    def _again(self) -> Draft:
        if not self._named:
            return self._good()
        first = self._rng.choice(self._named)
        assert first.message is not None
        other_order = dict(sorted(first.message.items(), reverse=self._rng.random() < 0.5))
        return self._enclosed("duplicate", first.lane, other_order, Fate.DUPLICATE)

    def _conflict(self) -> Draft:
        if not self._named:
            return self._bad()
        first = self._rng.choice(self._named)
        assert first.message is not None
        other = {**first.message, "labels": {"other": str(self._rng.getrandbits(32))}}
        return self._enclosed("conflict", first.lane, other, Fate.REJECTED)

    def _under_a_held_key(self) -> Draft:
        if not self._holders:
            return self._good()
        first = self._rng.choice(self._holders)
        assert first.message is not None
        # The key of the record is the holder's: the same partition, behind it.
        draft = self._enclosed("held", first.lane, {**first.message, "id": self._id()}, Fate.DEDUPLICATED)
        return Draft(draft.fate, draft.lane, draft.value, draft.kind, first.key, draft.headers, draft.message)

    def _bad(self) -> Draft:
        kind = self._rng.choice(sorted(BAD_KINDS))
        lane = self._rng.choice(LANES)
        made = BAD_KINDS[kind](self._rng, lane)
        value, headers = made if isinstance(made, tuple) else (made, ())
        # A tombstone wants a key; some others have one that is no text.
        key = self._rng.randbytes(4) if value is None or self._rng.random() < 0.3 else None
        return Draft(Fate.REJECTED, lane, value, kind, key, headers)


#: What a job does -> of 200 jobs.
KINDS = {
    "noop": 107, "output": 30, "input": 16, "caption": 12, "retry": 10, "bug": 8, "sleep": 10, "death": 1, "bad": 2,
    "held": 4,
}  # fmt: skip
_FAULTS: dict[str, dict[str, Any]] = {
    "retry": {"fault": "retry", "retry_after_s": 0.2},
    "bug": {"fault": "raise"},
    "sleep": {"fault": "sleep"},
    "death": {"fault": "kill"},
    "bad": {"fault": "invalid_input"},
}

Bad = bytes | None | tuple[bytes, Headers]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _noop(**more: object) -> bytes:
    return _json({"type": "test.noop", **more})


def _other_lane(rng: random.Random, lane: Lane) -> bytes:
    return _noop(lane=rng.choice([other for other in LANES if other != lane]))


def _truncated(rng: random.Random, lane: Lane) -> bytes:
    whole = _noop(params={"output_bytes": 12}, labels={"a": "b"}, lane=lane)
    return whole[: rng.randrange(1, len(whole))]


#: What is wrong -> how it is made.
BAD_KINDS: dict[str, Callable[[random.Random, Lane], Bad]] = {
    "no JSON": lambda rng, _: f"not json {rng.random()}".encode(),
    "truncated": _truncated,
    "a tombstone": lambda rng, _: None,
    "empty": lambda rng, _: b"",
    "no UTF-8": lambda rng, _: b"\xff" + rng.randbytes(rng.randint(1, 200)),
    "NUL raw": lambda rng, _: b'{"type": "test.noop", "labels": {"a": "x\x00y"}}',
    "NUL escaped": lambda rng, _: b'{"type": "test.noop", "labels": {"a": "x\\u0000y"}}',
    "a lone surrogate": lambda rng, _: b'{"type": "test.noop", "labels": {"a": "x\\ud800y"}}',
    "NaN": lambda rng, _: b'{"type": "test.fault", "params": {"fault": "sleep", "seconds": NaN}}',
    "a number out of range": lambda rng, _: b'{"type": "test.noop", "params": {"output_bytes": 1' + b"0" * 30 + b"}}",
    "nested too deep": lambda rng, _: b'{"type": "test.noop", "params": ' + b"[" * 200 + b"]" * 200 + b"}",
    "a doubled key": lambda rng, _: b'{"type": "test.noop", "type": "test.fault"}',
    "no object": lambda rng, _: _json(["test.noop", rng.random()]),
    "no type": lambda rng, _: _json({"inputs": {}}),
    "an unknown type": lambda rng, _: _json({"type": f"image.unheard-of-{rng.randrange(3)}"}),
    "an unknown key": lambda rng, _: _noop(colour="red"),
    "an unknown parameter": lambda rng, _: _noop(params={"output_bites": 1}),
    "an unknown checkpoint": lambda rng, _: _json(
        {"type": "image.caption", "inputs": {"image": "s3://a/b.jpg"}, "params": {"checkpoint": "nobody-has-it"}}
    ),
    "a parameter of another kind": lambda rng, _: _noop(params={"output_bytes": "5"}),
    "another lane": _other_lane,
    "a bucket that is not allowed": lambda rng, _: _noop(inputs={"files": {"a": "s3://elsewhere/picture.jpg"}}),
    "no URI": lambda rng, _: _noop(inputs={"files": {"a": "file:///etc/passwd"}}),
    "too large": lambda rng, _: _noop(labels={"a": "x" * (MESSAGE_BYTES + rng.randint(1, 1000))}),
    "an envelope without an id": lambda rng, _: _json(
        {"specversion": "1.0", "source": "/chaos", "type": "x", "data": {"type": "test.noop"}}
    ),
    "headers without an id": lambda rng, _: (_noop(), (("ce_specversion", b"1.0"), ("odd", b"\xff\x00"))),
    "a deadline before its time": lambda rng, _: _noop(
        run_after="2030-01-02T00:00:00Z", deadline="2030-01-01T00:00:00Z"
    ),
}
