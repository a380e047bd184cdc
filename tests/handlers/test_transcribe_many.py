"""`audio.transcribe` of long recordings, and of many at once."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Hashable, Sequence
from pathlib import Path
from typing import Any

import anyio
import numpy
import pytest

from handlers.audio.listening import Listening
from handlers.audio.speech import Request, Speech, hear
from handlers.audio.transcribe import Transcribe
from handlers.audio.voice import FRAME
from handlers.audio.windows import Cutting
from handlers.models.whisper import WhisperModel
from handlers.protocol import CheckpointSpec, Order
from handlers.registry import Registry
from handlers.runtime.attempt import Attempt
from handlers.runtime.context import Tools
from handlers.runtime.device import TorchDevice
from handlers.runtime.hub import Hub
from handlers.runtime.scheduler import Scheduler
from tests.handlers.conftest import LIMITS
from tests.handlers.transcribing import Told, says, transcribe
from tests.handlers.voices import RATE, encoded, silence, speech

pytestmark = pytest.mark.handlers


async def test_a_long_recording_waits_until_its_windows_are_written_down(hearing: Told, whisper: WhisperModel) -> None:
    told = says(whisper, 0.0, " word", 1.0)
    free = anyio.Event()
    given_s = 0

    class Slow(Told):
        async def infer(self, function: Any, checkpoint: str, samples: Sequence[Any], *, key: Hashable = ()) -> Any:
            await free.wait()
            return [told for _ in samples]

    async def sound() -> AsyncIterator[Any]:
        nonlocal given_s
        for _ in range(1800):
            given_s += 1
            yield numpy.zeros(RATE, dtype=numpy.float32)

    def voice(samples: Any) -> Any:
        return numpy.full(len(samples) // FRAME, 0.9)

    request = Request("transcribe", "en", "transcribe", (), (0.0,), None, False, 1)
    listening = Listening(Cutting(), voice)
    found: list[Speech] = []

    async def listen() -> None:
        slow = Slow(hearing.models, hearing.folder)
        found.append(await hear(slow, sound(), listening, request, expected_s=1800))

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        # Sixteen windows at work, one that waits for a place, one that is filled.
        assert 16 * 20 < given_s < 19 * 30
        assert listening.held <= 45 * RATE
        free.set()
    assert given_s == 1800
    [speech] = found
    assert speech.speech_s == pytest.approx(1800, abs=0.1)
    assert len(speech.segments) >= 60
    assert [segment.start for segment in speech.segments] == sorted(segment.start for segment in speech.segments)


async def run_together(spec: CheckpointSpec, files: Sequence[Path], scratch: Path) -> tuple[list[Any], list[int]]:
    """Results of jobs that run at once in an executor's runtime, and the sizes of the batches."""
    hub, sizes = Hub([spec], "cpu"), list[int]()
    with hub.lease(spec.name) as model:
        hook = model.network.encoder.register_forward_hook(lambda module, given, result: sizes.append(len(result)))
    scheduler = Scheduler(hub, TorchDevice("cpu"), max_batch=16)
    results: list[Any] = [None] * len(files)
    async with anyio.create_task_group() as service:
        service.start_soon(scheduler.run)
        tools = Tools(
            hub=hub,
            scheduler=scheduler,
            cpu=anyio.CapacityLimiter(2),
            programs=anyio.CapacityLimiter(2),
            roles={"transcribe": spec.name},
            limits=LIMITS,
            tell=lambda progress: None,
            tasks=service,
        )

        async def run(number: int) -> None:
            order = Order(
                key=f"{uuid.UUID(int=number)}:1",
                type="audio.transcribe",
                params={"temperatures": [0.0, 1.0], "words": True},
                inputs={"audio": str(files[number])},
                scratch=str(scratch / str(number)),
                seed=number,
            )
            outcome = await Attempt(order, Registry([Transcribe]), tools).run()
            assert outcome.failure is None, outcome.failure
            results[number] = outcome.result

        async with anyio.create_task_group() as jobs:
            for number in range(len(files)):
                jobs.start_soon(run, number)
        service.cancel_scope.cancel()
    scheduler.close()
    hook.remove()
    return results, sizes


async def test_jobs_side_by_side_share_batches_and_say_what_they_say_alone(
    specs: dict[str, CheckpointSpec], tmp_path: Path
) -> None:
    sounds = [speech(31, seed=1), numpy.concatenate([speech(27, seed=2), silence(2), speech(4, seed=3)])]
    files = [encoded(tmp_path / f"{n}.flac", sound) for n, sound in enumerate(sounds)]
    together, sizes = await run_together(specs["whisper"], files, tmp_path)
    assert max(sizes) > 1
    for number, file in enumerate(files):
        (tmp_path / "alone").mkdir(exist_ok=True)
        # The others' numbers are held by files that nobody speaks in.
        quiet = encoded(tmp_path / "quiet.wav", silence(1))
        mine = [file if n == number else quiet for n in range(len(files))]
        alone, _ = await run_together(specs["whisper"], mine, tmp_path / "alone")
        assert alone[number]["segments"]
        assert plain(together[number]) == plain(alone[number])


def plain(result: dict[str, Any]) -> list[Any]:
    """What must be the same; probabilities differ by rounding."""
    words = [
        (segment["start"], segment["end"], segment["text"], segment["temperature"], segment["words"][0]["text"])
        for segment in result["segments"]
    ]
    return [result["language"], result["text"], result["speech_s"], *words]


async def test_a_job_that_ends_early_leaves_no_window_at_work(
    hearing: Told, whisper: WhisperModel, tmp_path: Path
) -> None:
    path = encoded(tmp_path / "a.wav", numpy.concatenate([speech(27), silence(1)] * 3))
    begun, ended = anyio.Event(), 0

    class Slow(Told):
        async def infer(self, function: Any, checkpoint: str, samples: Sequence[Any], *, key: Hashable = ()) -> Any:
            nonlocal ended
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended += 1

    async with anyio.create_task_group() as group:
        slow = Slow(hearing.models, hearing.folder)
        group.start_soon(lambda: transcribe(slow, path, language="en"))
        await begun.wait()
        group.cancel_scope.cancel()
    assert ended >= 1
    assert slow.outputs == {}
