"""The vector of what is searched for: known already, or made by a running worker as a small interactive job.

So the command line needs no torch, and answers in the time that a worker takes for one small batch.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.compose import Deployment
from handlers.errors import ErrorType
from handlers.registry import AnyHandler, Registry
from intake.admission import new_job
from intake.identity import new_id
from intake.message import Rules, parse
from storage import spaces
from storage.lookup import Ended, ended, live_workers, mark_gone
from storage.query import read_wording
from storage.search import vector_of
from storage.submit import submit

if TYPE_CHECKING:
    from storage.database import Database
    from storage.spaces import Space

#: A worker that lives answers in far less; one that is still loading its models needs more.
TIMEOUT_S = 60.0
#: Before whatever else is in the lane: somebody sits there and waits.
PRIORITY = 100
#: A look costs the server a tenth of a millisecond; nobody tells of a job's end, so that workers need not.
_QUICK_S, _QUICK_PAUSE_S, _PAUSE_S = 0.5, 0.002, 0.05


class NoVector(Exception):
    """What was asked for has no vector and nobody makes one; the message says why, and what would help."""


class UnreadableQuery(NoVector):
    """It is what was asked with: no worker could make a vector of it."""


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A vector and the space that it can be compared in."""

    vector: str
    """pgvector's text form."""
    space: Space


def of_text(deployment: Deployment, text: str, *, timeout_s: float = TIMEOUT_S) -> QueryVector:
    """The vector of a text in the active space. Raises NoVector."""
    space = _active(deployment.database)
    # What a quotation mark or a minus means is for the words alone: a model reads plain text.
    plain = read_wording(text).plain or text
    params = {"texts": [plain], "checkpoint": space.checkpoint}
    from handlers.text.embed import EmbedText

    return _made(deployment, space, EmbedText, {"params": params}, timeout_s)


def of_picture(deployment: Deployment, picture: str, *, timeout_s: float = TIMEOUT_S) -> QueryVector:
    """The vector of a local file or an object (`s3://bucket/key`); none is made where the content has one already.

    Raises NoVector, and CommandFailed for a file that cannot be read.
    """
    space = _active(deployment.database)
    if "://" in picture:
        return _of_reference(deployment, space, picture, timeout_s)
    from console.uploads import QUERIES, local_file, upload, upload_place
    from storage.objects.uri import ObjectPrefix

    place = upload_place(deployment.settings, deployment.bucket_rules, QUERIES)
    # A place of its own: it is deleted afterwards, under nobody else's search.
    file = local_file(Path(picture).expanduser(), ObjectPrefix(place.bucket, f"{place.prefix}{new_id()}/"))
    with deployment.database.transaction() as connection:
        known = vector_of(connection, file.sha256)
    if known is not None:
        return QueryVector(known, space)
    _check_worker(deployment)
    upload(deployment.store, file)
    try:
        return _of_reference(deployment, space, file.reference, timeout_s)
    finally:
        deployment.store.delete(file.uri)
        with deployment.database.transaction() as connection:
            mark_gone(connection, file.uri.bucket, file.uri.key)


def _of_reference(
    deployment: Deployment, space: Space, reference: str | Mapping[str, str], timeout_s: float
) -> QueryVector:
    from handlers.image.embed import EmbedImage

    message = {
        "inputs": {"images": [reference]},
        "params": {"vectors": True, "checkpoint": space.checkpoint},
        "embed": False,  # a question is no part of the library
    }
    return _made(deployment, space, EmbedImage, message, timeout_s)


def _active(database: Database) -> Space:
    with database.transaction() as connection:
        active = [space for space in spaces.live(connection) if space.state == "active"]
    if not active:
        raise NoVector("no picture has been embedded yet: the first `mediamill worker` makes the embedding space")
    return active[0]


def _check_worker(deployment: Deployment) -> None:
    with deployment.database.transaction() as connection:
        if not live_workers(connection, lease_s=deployment.settings.lease):
            raise NoVector("no worker is running that could embed the query: start one with `mediamill worker`")


def _made(
    deployment: Deployment, space: Space, handler: type[AnyHandler], message: Mapping[str, Any], timeout_s: float
) -> QueryVector:
    _check_worker(deployment)
    deadline = datetime.now(UTC) + timedelta(seconds=timeout_s)
    own = {"lane": "interactive", "priority": PRIORITY, "max_attempts": 1, "deadline": deadline.isoformat()}
    # One type is known here, and any checkpoint: the space says which, and what counts is that a worker has it. So
    # neither the other types' modules nor the catalogue are read.
    spec = parse({"type": handler.type, **message, **own}, Registry([handler]), Rules.of(deployment.settings))
    id_ = new_id()
    submit(deployment.database, [new_job(spec, id_)])
    end = _wait(deployment, id_, timeout_s)
    if end.state != "succeeded":
        error = end.error or {}
        kind = UnreadableQuery if error.get("type") == ErrorType.INVALID_INPUT else NoVector
        raise kind(f"the query could not be embedded: {error.get('type', '')}: {error.get('message', '')}")
    return QueryVector(json.dumps(end.result["vectors"][0]), space)


def _wait(deployment: Deployment, id_: uuid.UUID, timeout_s: float) -> Ended:
    """What came of the job. Raises NoVector, with the job cancelled, when nobody took it in time."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < timeout_s:
        with deployment.database.transaction() as connection:
            end = ended(connection, id_)
        if end is not None:
            return end
        time.sleep(_QUICK_PAUSE_S if waited < _QUICK_S else _PAUSE_S)
    from storage.jobs import cancel

    rules = deployment.settle_rules
    deployment.database.retrying(lambda connection: cancel(connection, [id_], rules))
    raise NoVector(f"no worker embedded the query within {timeout_s:.0f} s: see `mediamill top`")
