"""A worker that some objects kill: the real daemon, with a store that ends the process as a defect in a library would.

Run as a program, with the settings of a deployment on a local folder.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from console import logs
from console.assembly import worker_parts
from console.compose import Deployment
from storage.objects.base import ObjectInfo, ObjectRef
from storage.objects.cache import ContentCache
from storage.objects.local import LocalStore
from storage.objects.reader import ObjectReader
from storage.objects.uri import ObjectUri
from worker.daemon import serve
from worker.health import Health
from worker.metrics import Metrics

READ, STORED = "kills-when-read", "kills-when-stored"


class DeadlyStore(LocalStore):
    """Whoever reads or stores an object with such a word in its key dies."""

    def _open(self, ref: ObjectRef, start: int) -> Any:
        _die_of(READ, ref.uri)
        return super()._open(ref, start)

    def _upload(
        self, source: Path, uri: ObjectUri, content_type: str | None, metadata: Mapping[str, str]
    ) -> ObjectInfo:
        _die_of(STORED, uri)
        return super()._upload(source, uri, content_type, metadata)


def _die_of(word: str, uri: ObjectUri) -> None:
    if word in uri.key:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    with Deployment.load() as deployment:
        logs.configure(deployment.settings)
        parts = worker_parts(deployment, Health(), Metrics())
        store = DeadlyStore(Path(deployment.settings.store), deployment.bucket_rules)
        cache = deployment.held(ContentCache(deployment.settings.cache, deployment.settings.cache_bytes))
        anyio.run(serve, replace(parts, store=store, reader=ObjectReader(store, cache)))


if __name__ == "__main__":
    main()
