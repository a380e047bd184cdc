"""The composition root: from settings to everything that a command may need, each part made when it is first used."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from config.settings import Loaded, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from config.catalogue import Catalogue
    from handlers.registry import Registry
    from intake.kafka.options import KafkaOptions
    from intake.kafka.publisher import Publisher
    from intake.message import Rules
    from storage import settle
    from storage.database import Database, Limits
    from storage.objects.base import ObjectStore
    from storage.objects.rules import BucketRules
    from storage.objects.uri import ObjectPrefix

Held = TypeVar("Held", bound="AbstractContextManager[Any]")


class Deployment:
    """The parts of one deployment, as its settings say; a context manager that closes what was opened."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._open = ExitStack()

    @classmethod
    def load(cls, overrides: Mapping[str, object] | None = None) -> Deployment:
        """From the environment and the settings file. Raises BadSetting."""
        return cls(Settings.load(overrides=overrides))

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @property
    def embedded(self) -> bool:
        """Whether the database is our own, under `home`."""
        return self.settings.database_url is None

    @cached_property
    def database_url(self) -> str:
        """Of the configured Postgres, or of the embedded one, which is started. Raises EmbeddedError."""
        if self.settings.database_url is not None:
            return self.settings.database_url
        from storage.embedded import EmbeddedPostgres

        return self._open.enter_context(EmbeddedPostgres(self.settings.pgdata)).url

    @cached_property
    def bare_database(self) -> Database:
        """The database, whatever its schema is."""
        from storage.direct import DirectDatabase

        database = DirectDatabase(self.database_url, **self._limits)
        self._open.callback(database.close)
        return database

    @cached_property
    def database(self) -> Database:
        """The database at a revision that this build can use, for commands that are soon over.

        An embedded one is brought there: nobody else looks after it. A configured one may be other people's too:
        raises SchemaMismatch, which says what to run.
        """
        from storage.revision import is_current

        if not is_current(self.bare_database):
            from storage import schema

            try:
                schema.check(self.bare_database)
            except schema.SchemaMismatch:
                if not self.embedded:
                    raise
                schema.migrate(self.bare_database)
        return self.bare_database

    @cached_property
    def pooled_database(self) -> Database:
        """The same for a process that stays, whose threads work at the same time."""
        return self.own_database(self.settings.database_connections)

    def own_database(self, connections: int) -> Database:
        """A pool of its own for a part that works beside the others, and must not take their connections."""
        from storage.pooled import PooledDatabase

        self.database.close()  # its schema is looked at once; its connection is of no more use
        database = PooledDatabase(self.database_url, pool=connections, **self._limits)
        self._open.callback(database.close)
        return database

    @property
    def _limits(self) -> Limits:
        return {
            "connect_timeout_s": int(self.settings.database_connect_s),
            "statement_timeout_s": self.settings.database_statement_s,
        }

    @cached_property
    def kafka(self) -> KafkaOptions | None:
        """How Kafka is spoken to; None: there is none in this deployment."""
        from intake.kafka.options import KafkaOptions

        return KafkaOptions.of(self.settings)

    @cached_property
    def publisher(self) -> Publisher:
        """For the thread of the command; only where there is Kafka."""
        from intake.kafka.publisher import Publisher

        assert self.kafka is not None
        return self._open.enter_context(Publisher(self.kafka))

    @cached_property
    def registry(self) -> Registry:
        """The job types that are installed."""
        from handlers.registry import Registry

        return Registry.load(test_types=self.settings.test_types)

    @cached_property
    def bucket_rules(self) -> BucketRules:
        """Which buckets jobs may read and write."""
        from storage.objects.rules import BucketRules

        return BucketRules.parse(self.settings.s3_buckets)

    @cached_property
    def uploads(self) -> ObjectPrefix:
        """Where local files that are inputs go. Raises CommandFailed where nothing may be both read and written."""
        from console.uploads import UPLOADS, upload_place

        return upload_place(self.settings, self.bucket_rules, UPLOADS)

    @cached_property
    def store(self) -> ObjectStore:
        """The object store, within the allow-list."""
        store = self._s3() if self.settings.store == "s3" else self._folder(Path(self.settings.store))
        self._open.callback(store.close)
        return store

    def _s3(self) -> ObjectStore:
        from storage.objects.s3 import S3Options, S3Store

        return S3Store(
            self.bucket_rules,
            S3Options(
                endpoint_url=self.settings.s3_endpoint,
                region=self.settings.s3_region,
                # Servers other than Amazon's rarely have a host name for each bucket; all know them as paths.
                addressing="path" if self.settings.s3_endpoint else "auto",
                connect_s=self.settings.s3_connect_s,
                read_s=self.settings.s3_read_s,
                attempts=self.settings.s3_attempts,
            ),
        )

    def _folder(self, folder: Path) -> ObjectStore:
        from storage.objects.local import LocalStore

        return LocalStore(folder, self.bucket_rules)

    @cached_property
    def profile(self) -> Catalogue:
        """The checkpoints that jobs of the deployment may name, whichever of its workers has them."""
        from config.catalogue import Catalogue

        return Catalogue.load(self.settings.catalogue)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Those of them that a worker with these settings has."""
        return self.profile.of_roles(self.settings.model_roles)

    @cached_property
    def message_rules(self) -> Rules:
        """What the door of the command line lets in."""
        from intake.message import Rules

        return Rules.of(self.settings, checkpoints=self.profile.serves)

    @cached_property
    def settle_rules(self) -> settle.Rules:
        """What follows the end of an attempt."""
        from storage.settle import Rules

        return Rules.of(self.settings)

    def held(self, part: Held) -> Held:
        """Enters a part that a command made for itself, to be closed with the deployment."""
        self._open.enter_context(part)
        return part

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
