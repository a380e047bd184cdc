"""One attempt at one job, from its order to its outcome."""

from __future__ import annotations

import math
import uuid
from pathlib import Path
from typing import Any, Literal

import anyio
from pydantic import ValidationError

from handlers.declaration import Job, Result
from handlers.errors import ErrorType, HandlerBug, InvalidInput
from handlers.protocol import INTERRUPTED, Failure, Order, Outcome, Timings
from handlers.registry import AnyHandler, Registry
from handlers.runtime.context import AttemptContext, Tools
from handlers.runtime.outcome import failure_of

Reason = Literal["cancelled", "timeout", "interrupted"]


class Attempt:
    """Runs an order to its end; `cancel` may be called meanwhile."""

    def __init__(self, order: Order, registry: Registry, tools: Tools) -> None:
        self._order = order
        self._registry = registry
        self._clock = tools.clock
        self._context = AttemptContext(order, tools)
        self._scope = anyio.CancelScope()
        self._reason: Reason | None = None
        self._was_waiting = False

    def cancel(self, reason: Reason) -> None:
        """Ends it at its next `await`; what runs on the device or in the pool is awaited. The first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._was_waiting = self._context.is_only_waiting()
            self._context.ended = True
            self._scope.cancel()

    async def run(self) -> Outcome:
        """The outcome; whatever the handler raises is in it."""
        started = self._clock()
        outcome = None
        with self._scope:
            outcome = await self._outcome()
        if outcome is None:
            outcome = Outcome(key=self._order.key, failure=self._ended())
        if outcome.failure is not None:
            await self._context.drop_embeddings()
        return outcome.model_copy(update={"timings": self._timings(started)})

    async def _outcome(self) -> Outcome:
        try:
            return await self._success()
        except anyio.get_cancelled_exc_class() as error:
            if self._reason is not None or anyio.current_effective_deadline() == -math.inf:
                raise
            # Nobody cancelled this attempt: it must not take the others along.
            return self._failed(HandlerBug(f"the handler let a cancellation of its own escape: {error!r}"))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - told as the job's failure
            return self._failed(error)

    async def _success(self) -> Outcome:
        context = self._context
        handler = self._handler()
        result = _checked(handler, await handler.run(self._job(handler), context))
        await context.embedded()
        context.check_files()
        return Outcome(
            key=self._order.key,
            result=result.model_dump(),
            files=tuple(context.files),
            texts=tuple(context.texts),
            embeddings=tuple(context.embeddings),
            probes=context.probes,
        )

    def _handler(self) -> AnyHandler:
        type_ = self._order.type
        if type_ not in self._registry:
            known = ", ".join(self._registry)
            raise HandlerBug(
                f"this executor has no handler for {type_!r}, only for {known}: install its package there too"
            )
        return self._registry[type_]

    def _job(self, handler: AnyHandler) -> Job[Any]:
        order = self._order
        try:
            params = handler.params_type().model_validate(order.params)
        except ValidationError as error:
            raise InvalidInput(f"params do not fit {handler.type}: {error}") from error
        job_id, _, attempt = order.key.rpartition(":")
        return Job(
            id=uuid.UUID(job_id),
            attempt=int(attempt),
            params=params,
            inputs={role: _paths(value) for role, value in order.inputs.items()},
            seed=order.seed,
        )

    def _failed(self, error: BaseException) -> Outcome:
        return Outcome(key=self._order.key, failure=failure_of(error))

    def _ended(self) -> Failure:
        match self._reason:
            case "timeout":
                if self._was_waiting:
                    message = (
                        "its time limit passed while it only waited for the device or a program: others took its time"
                    )
                else:
                    message = "it ran longer than its time limit"
                return Failure(type=ErrorType.TIMEOUT, message=message, waiting=self._was_waiting)
            case "cancelled":
                return Failure(type=ErrorType.CANCELLED, message="somebody asked for the job to end")
            case _:
                return Failure(type=INTERRUPTED, message="the worker stopped")

    def _timings(self, started: float) -> Timings:
        context, now = self._context, self._clock()
        first = now if context.first_infer is None else context.first_infer
        last = now if context.last_infer is None else context.last_infer
        return Timings(
            prepare=first - started, wait=context.usage.wait, infer=context.usage.infer, finish=max(0.0, now - last)
        )


def _checked(handler: AnyHandler, result: object) -> Result:
    declared = handler.result_type()
    if not isinstance(result, declared):
        raise HandlerBug(f"{handler.type} returned {type(result).__name__} where {declared.__name__} is declared")
    return result


def _paths(value: str | list[str] | dict[str, str]) -> Path | list[Path] | dict[str, Path]:
    if isinstance(value, str):
        return Path(value)
    if isinstance(value, list):
        return [Path(each) for each in value]
    return {name: Path(each) for name, each in value.items()}
