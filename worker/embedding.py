"""The job that gives a picture its embedding where the job that read or made it did not."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import uuid_utils.compat

from storage.spaces import Space
from storage.submit import NewJob
from worker.record import Picture, Record


def embed_job(record: Record, picture: Picture, space: Space) -> NewJob:
    """An `image.embed` job for one picture and one space; its dedupe key lets there be one at a time.

    Only a worker that fills the space claims it. It names the bytes that were read: what lies behind the key later may
    be another picture.
    """
    reference: dict[str, Any] = {"uri": picture.uri, "sha256": picture.sha256.hex()}
    if picture.version_id:
        reference["version_id"] = picture.version_id
    elif picture.etag:
        reference["etag"] = picture.etag
    key = f"mediamill:image.embed:{space.id}:{picture.sha256.hex()}"
    message = {
        "type": "image.embed",
        "inputs": {"images": [reference]},
        "tenant": record.tenant,
        "lane": record.lane,
        "dedupe_key": key,
    }
    return NewJob(
        id=uuid_utils.compat.uuid7(),
        type="image.embed",
        tenant=record.tenant,
        lane=record.lane,
        body_sha256=hashlib.sha256(json.dumps(message, sort_keys=True).encode()).digest(),
        message=message,
        dedupe_key=key,
        checkpoints=(f"space:{space.id}",),
    )
