"""Which job types there are: ours by import, those from outside by the entry-point group `mediamill.handlers`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from handlers.declaration import Handler

AnyHandler = Handler[Any, Any]

ENTRY_POINT_GROUP = "mediamill.handlers"
_BUILT_IN = (
    "handlers.audio.transcribe:Transcribe",
    "handlers.image.answer:AnswerQuestions",
    "handlers.image.caption:Caption",
    "handlers.image.embed:EmbedImage",
    "handlers.image.generate:Generate",
    "handlers.text.embed:EmbedText",
    "handlers.video.edit:Edit",
)
_FOR_TESTS = ("handlers.test.fault:Fault", "handlers.test.noop:Noop")


class DuplicateType(Exception):
    """Two handlers declare the same type: which one runs must not depend on the order of imports."""


class Registry:
    """Handlers by type."""

    def __init__(self, handlers: Iterable[type[AnyHandler]]) -> None:
        self._handlers: dict[str, AnyHandler] = {}
        for handler in handlers:
            if (other := self._handlers.get(handler.type)) is not None:
                raise DuplicateType(
                    f"job type {handler.type!r} is declared by both {_name(type(other))} and {_name(handler)}:"
                    " remove one of the packages"
                )
            # Derived from the type arguments: a declaration that lacks them should fail at start, not at the first job.
            handler.params_type()
            handler.result_type()
            self._handlers[handler.type] = handler()

    @classmethod
    def load(cls, *, test_types: bool = False) -> Registry:
        """All handlers that are installed; `test.*` types only when asked for."""
        names = _BUILT_IN + (_FOR_TESTS if test_types else ())
        from importlib.metadata import entry_points  # a lot to import, for what a query's one type does without

        outside = [point.load() for point in entry_points(group=ENTRY_POINT_GROUP)]
        return cls([_import(name) for name in names] + outside)

    def __getitem__(self, type_: str) -> AnyHandler:
        return self._handlers[type_]

    def __contains__(self, type_: object) -> bool:
        return type_ in self._handlers

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._handlers))

    def nearest(self, type_: str) -> str | None:
        """The known type that the writer of an unknown one may have meant."""
        return next(iter(difflib.get_close_matches(type_, self._handlers, n=1)), None)


def _import(name: str) -> type[AnyHandler]:
    module, _, attribute = name.partition(":")
    handler: type[AnyHandler] = getattr(import_module(module), attribute)
    return handler


def _name(handler: type) -> str:
    return f"{handler.__module__}.{handler.__qualname__}"
