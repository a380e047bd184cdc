"""`handlers.runtime.attempt` and `context`: from an order to its outcome."""

from __future__ import annotations

import base64
import errno
import gc
import struct
import threading
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from handlers.declaration import Context, Job, TextKind
from handlers.errors import InvalidInput, Problem, Retry
from handlers.protocol import Outcome
from handlers.runtime.attempt import Attempt, Reason
from handlers.runtime.context import AttemptContext, Embedder
from tests.handlers.runtime_fakes import Gate, Word, bench


def failure(outcome: Outcome) -> tuple[str, str]:
    assert outcome.failure is not None
    assert outcome.result is None
    return outcome.failure.type, outcome.failure.message


async def test_a_job_s_result_files_texts_and_facts_are_in_its_outcome(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        picture = await ctx.cpu(job.one("image").read_text)
        ctx.output("picture", ".txt", "text/plain").write_text(picture)
        ctx.text(TextKind.CAPTION, "a cat", of="inputs/image", language="en", segments=[{"start": 0.5}])
        ctx.probe("inputs/image", {"mime": "image/jpeg"})
        (word,) = await ctx.infer(lambda model, samples: [f"{model} saw {s}" for s in samples], "embed", [picture])
        return Word(word=f"{word} {job.seed} {job.attempt} {job.id}")

    (tmp_path / "in.jpg").write_text("a picture")
    id_ = uuid.uuid4()
    async with bench(tmp_path) as runtime:
        outcome = await runtime.run(body, key=f"{id_}:3", inputs={"image": str(tmp_path / "in.jpg")}, seed=7)
    assert outcome.failure is None
    assert outcome.result == {"word": f"model small saw a picture 7 3 {id_}"}
    (file,) = outcome.files
    assert (file.role, Path(file.path), file.media_type) == ("picture", tmp_path / "picture.txt", "text/plain")
    assert outcome.texts[0].segments == [{"start": 0.5}]
    assert outcome.probes == {"inputs/image": {"mime": "image/jpeg"}}
    timings = outcome.timings
    assert min(timings.prepare, timings.wait, timings.infer, timings.finish) >= 0


async def test_lists_and_maps_of_inputs_come_as_declared(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        return Word(word=f"{job.many('images')} {job.named('assets')}")

    async with bench(tmp_path) as runtime:
        outcome = await runtime.run(body, inputs={"images": ["/a", "/b"], "assets": {"x": "/c"}})
    assert outcome.result == {"word": f"{[Path('/a'), Path('/b')]} { {'x': Path('/c')} }"}


async def raising(error: BaseException) -> Word:
    raise error


@pytest.mark.parametrize(
    ("error", "type_", "words"),
    [
        (InvalidInput("not a picture"), "InvalidInput", "not a picture"),
        (Retry("later", after=1), "Retry", "later"),
        (ZeroDivisionError("oops"), "HandlerBug", "ZeroDivisionError: oops"),
        (SystemExit(3), "HandlerBug", "SystemExit: 3"),
        (KeyboardInterrupt(), "HandlerBug", "KeyboardInterrupt"),
        (MemoryError(), "ResourceExhausted", "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "ResourceExhausted", "not enough room on the disk"),
    ],
)
async def test_what_a_handler_raises_is_its_job_s_failure(
    tmp_path: Path, error: BaseException, type_: str, words: str
) -> None:
    async with bench(tmp_path) as runtime:
        found = failure(await runtime.run(lambda job, ctx: raising(error)))
    assert found[0] == type_
    assert words in found[1]


async def test_a_cancellation_that_nobody_asked_for_fails_its_job_and_takes_no_other_along(tmp_path: Path) -> None:
    async with bench(tmp_path) as runtime:
        type_, message = failure(await runtime.run(lambda job, ctx: raising(anyio.get_cancelled_exc_class()())))
    assert type_ == "HandlerBug"
    assert "a cancellation of its own" in message


async def giving(value: Any) -> Any:
    return value


@pytest.mark.parametrize("value", [None, {"word": "x"}, "x"])
async def test_a_result_of_another_kind_than_declared_is_a_bug(tmp_path: Path, value: Any) -> None:
    async with bench(tmp_path) as runtime:
        type_, message = failure(await runtime.run(lambda job, ctx: giving(value)))
    assert type_ == "HandlerBug"
    assert f"test.body returned {type(value).__name__} where Word is declared" in message


async def test_an_output_that_was_declared_and_not_written_is_a_bug(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        ctx.output("picture", ".png", "image/png")
        return Word()

    async with bench(tmp_path) as runtime:
        type_, message = failure(await runtime.run(body))
    assert type_ == "HandlerBug"
    assert "output 'picture' was declared and not written: there is no file picture.png" in message


async def test_a_link_is_no_output(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        ctx.output("picture", ".png", "image/png").symlink_to("/etc/hostname")
        return Word()

    async with bench(tmp_path) as runtime:
        assert failure(await runtime.run(body))[0] == "HandlerBug"


@pytest.mark.parametrize("role", ["../up", "a/b", "", "A", "x" * 80])
async def test_an_output_s_name_cannot_lead_out_of_scratch(tmp_path: Path, role: str) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        ctx.output(role, ".png", "image/png")
        return Word()

    async with bench(tmp_path) as runtime:
        assert failure(await runtime.run(body))[0] == "HandlerBug"


async def test_an_unknown_type_is_a_bug_that_names_the_known_ones(tmp_path: Path) -> None:
    async with bench(tmp_path) as runtime:
        type_, message = failure(await runtime.run(lambda job, ctx: giving(Word()), type="test.other"))
    assert type_ == "HandlerBug"
    assert "'test.other', only for test.body" in message


async def test_params_that_do_not_fit_are_invalid_input(tmp_path: Path) -> None:
    async with bench(tmp_path) as runtime:
        type_, message = failure(await runtime.run(lambda job, ctx: giving(Word()), params={"surprise": 1}))
    assert type_ == "InvalidInput"
    assert "surprise" in message


async def test_an_unknown_checkpoint_is_a_bug(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        await ctx.infer(lambda model, samples: samples, "unheard-of", [1])
        return Word()

    async with bench(tmp_path) as runtime:
        type_, message = failure(await runtime.run(body))
    assert type_ == "HandlerBug"
    assert "known: small" in message


# --- cancel ---


@pytest.mark.parametrize(
    ("reason", "type_"), [("cancelled", "Cancelled"), ("timeout", "Timeout"), ("interrupted", "Interrupted")]
)
async def test_a_cancelled_job_ends_at_its_next_await_with_the_reason(
    tmp_path: Path, reason: Reason, type_: str
) -> None:
    async with bench(tmp_path) as runtime:
        attempt = runtime.attempt(lambda job, ctx: anyio.sleep_forever())
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_soon, attempt, reason)
            with anyio.fail_after(5):
                outcome = await attempt.run()
    assert failure(outcome)[0] == type_
    assert outcome.failure is not None
    assert not outcome.failure.waiting


async def cancel_soon(attempt: Attempt, reason: Reason) -> None:
    await anyio.wait_all_tasks_blocked()
    attempt.cancel(reason)


async def test_a_success_that_came_first_beats_the_cancel(tmp_path: Path) -> None:
    async with bench(tmp_path) as runtime:
        attempt = runtime.attempt(lambda job, ctx: giving(Word(word="done")))
        attempt.cancel("cancelled")
        outcome = await attempt.run()
    assert outcome.result == {"word": "done"}


async def test_a_job_whose_time_ran_out_while_it_only_waited_for_the_device_says_so(tmp_path: Path) -> None:
    gate = Gate()

    async def body(job: Job[Any], ctx: Context) -> Word:
        await ctx.infer(gate, "small", ["x"], key=job.id)
        return Word()

    outcomes: dict[str, Outcome] = {}
    async with bench(tmp_path) as runtime:
        on_device, waiting = runtime.attempt(body), runtime.attempt(body)

        async def keep(name: str, attempt: Attempt) -> None:
            outcomes[name] = await attempt.run()

        async with anyio.create_task_group() as group:
            group.start_soon(keep, "on device", on_device)
            await gate.is_entered()
            group.start_soon(keep, "waiting", waiting)
            await anyio.wait_all_tasks_blocked()
            waiting.cancel("timeout")
            on_device.cancel("timeout")
            await anyio.wait_all_tasks_blocked()
            assert set(outcomes) == {"waiting"}
            gate.open.set()
    assert outcomes["waiting"].failure is not None
    assert outcomes["waiting"].failure.waiting
    assert outcomes["on device"].failure is not None
    assert not outcomes["on device"].failure.waiting


async def test_a_call_in_the_pool_is_awaited_before_its_job_ends(tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        assert go_on.wait(10)

    async def body(job: Job[Any], ctx: Context) -> Word:
        await ctx.cpu(slow)
        return Word()

    async with bench(tmp_path) as runtime:
        attempt, ended = runtime.attempt(body), anyio.Event()

        async def run() -> None:
            assert failure(await attempt.run())[0] == "Cancelled"
            ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await anyio.to_thread.run_sync(entered.wait, 10)
            attempt.cancel("cancelled")
            await anyio.wait_all_tasks_blocked()
            assert not ended.is_set()
            go_on.set()


# --- progress, embeddings, memory ---


async def test_progress_is_told_at_most_twice_a_second_and_between_0_and_1(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        ctx.progress(7.5, "start\ud800" + "x" * 1000)
        for step in range(1000):
            ctx.progress(step / 1000)
        return Word()

    async with bench(tmp_path) as runtime:
        await runtime.run(body)
    (told,) = runtime.told
    assert told.fraction == 1.0
    assert told.note.startswith("start?x")
    assert len(told.note) == 200


def halves(model: Any, samples: Sequence[Any]) -> list[Any]:
    return [ValueError("torn") if sample == "bad" else [0.5, 0.25] for sample in samples]


async def test_embeddings_are_made_for_what_was_asked_beside_the_handler_and_packed(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        ctx.embed("picture", of="inputs/image")
        ctx.embed("picture", of="inputs/unasked")
        ctx.embed("picture", of="outputs/picture")
        return Word(word="ok")

    embedder = Embedder(lambda processor, image: f"{image} by {processor}", halves)
    async with bench(tmp_path, embedder=embedder) as runtime:
        outcome = await runtime.run(body, embed=("inputs/image",))
        with_outputs = await runtime.run(body, embed_outputs=True)
    (embedding,) = outcome.embeddings
    assert (embedding.of, embedding.checkpoint, embedding.dimension) == ("inputs/image", "small", 2)
    assert struct.unpack("<2f", base64.b64decode(embedding.vector)) == (0.5, 0.25)
    assert [each.of for each in with_outputs.embeddings] == ["outputs/picture"]


async def test_an_embedding_that_fails_does_not_fail_its_job(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        ctx.embed("bad", of="inputs/image")
        return Word(word="ok")

    async with bench(tmp_path, embedder=Embedder(lambda processor, image: image, halves)) as runtime:
        outcome = await runtime.run(body, embed=("inputs/image",))
    assert outcome.result == {"word": "ok"}
    assert outcome.embeddings == ()


async def test_a_job_that_fails_withdraws_its_embeddings(tmp_path: Path) -> None:
    gate = Gate()

    async def body(job: Job[Any], ctx: Context) -> Word:
        ctx.embed("picture", of="inputs/image")
        await anyio.wait_all_tasks_blocked()
        raise InvalidInput("after all")

    embedder = Embedder(lambda processor, image: image, gate)
    async with bench(tmp_path, embedder=embedder) as runtime, anyio.create_task_group() as group:
        group.start_soon(runtime.run, lambda job, ctx: ctx.infer(gate, "small", ["blocker"], key="other"))
        await gate.is_entered()
        with anyio.fail_after(5):
            outcome = await runtime.run(body, embed=("inputs/image",))
        gate.open.set()
    assert failure(outcome)[0] == "InvalidInput"
    assert [batch[0] for batch in gate.batches] == ["blocker"]


class Heavy:
    """Stands for a decoded picture."""


@pytest.mark.parametrize("end", ["success", "failure", "cancel", "failed sample"])
async def test_nothing_of_a_job_remains_in_memory_after_its_end(tmp_path: Path, end: str) -> None:
    watched: list[weakref.ref[Heavy]] = []

    async def body(job: Job[Any], ctx: Context) -> Word:
        heavy = Heavy()
        watched.append(weakref.ref(heavy))
        same = await ctx.cpu(lambda: heavy)
        ctx.embed(same, of="inputs/image")
        await ctx.infer(
            lambda model, samples: [ValueError() if end == "failed sample" else s for s in samples], "small", [heavy]
        )
        if end == "failure":
            raise ValueError("with a traceback that holds frames")
        if end == "cancel":
            await anyio.sleep_forever()
        return Word()

    async with bench(
        tmp_path, embedder=Embedder(lambda processor, image: image, lambda model, s: [[1.0]] * len(s))
    ) as runtime:
        attempt = runtime.attempt(body, embed=("inputs/image",))
        async with anyio.create_task_group() as group:
            if end == "cancel":
                group.start_soon(cancel_soon, attempt, "cancelled")
            outcome = await attempt.run()
        assert (outcome.failure is None) == (end == "success")
        del attempt
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        assert [ref() for ref in watched] == [None]


async def test_a_registry_s_handler_is_shared_by_its_attempts_and_keeps_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as runtime:
        outcomes = [await runtime.run(lambda job, ctx: giving(Word(word=str(job.seed))), seed=seed) for seed in (1, 2)]
    assert [outcome.result for outcome in outcomes] == [{"word": "1"}, {"word": "2"}]


async def test_everything_that_is_wrong_with_a_job_is_told_with_its_place(tmp_path: Path) -> None:
    problems = [
        Problem("/params/a", "overlap", "begins too early", "move it"),
        Problem("/params/b", "x", "is wrong", ""),
    ]
    async with bench(tmp_path) as runtime:
        outcome = await runtime.run(lambda job, ctx: raising(InvalidInput(problems=problems)))
    assert failure(outcome) == (
        "InvalidInput",
        "/params/a: begins too early; move it [overlap]\n/params/b: is wrong [x]",
    )
    assert outcome.failure is not None
    assert [(flaw.pointer, flaw.code) for flaw in outcome.failure.problems] == [
        ("/params/a", "overlap"),
        ("/params/b", "x"),
    ]


async def test_a_sample_tells_from_the_device_how_far_it_is_and_learns_that_its_job_has_ended(tmp_path: Path) -> None:
    entered, seen, go_on = threading.Event(), threading.Event(), threading.Event()

    def long(model: Any, samples: Sequence[Any]) -> list[bool]:
        (steps,) = samples
        steps.done(0.5, "half")
        before = steps.ended
        entered.set()
        assert go_on.wait(10)
        ended.append((before, steps.ended))
        seen.set()
        return [True]

    async def body(job: Job[Any], ctx: Context) -> Word:
        await ctx.infer(long, "embed", [ctx.steps()])
        return Word()

    ended: list[tuple[bool, bool]] = []
    async with bench(tmp_path) as runtime, anyio.create_task_group() as group:
        attempt = runtime.attempt(body)
        group.start_soon(attempt.run)
        assert await anyio.to_thread.run_sync(entered.wait, 10)
        attempt.cancel("cancelled")
        go_on.set()
        assert await anyio.to_thread.run_sync(seen.wait, 10)
    assert ended == [(False, True)]
    assert [(progress.fraction, progress.note) for progress in runtime.told] == [(0.5, "half")]


async def test_outside_programs_take_turns_and_a_job_with_one_is_not_only_waiting(tmp_path: Path) -> None:
    running, most = 0, 0
    waiting: list[bool] = []

    async def body(job: Job[Any], ctx: Context) -> Word:
        nonlocal running, most
        async with ctx.program():
            running += 1
            most = max(most, running)
            assert isinstance(ctx, AttemptContext)
            ctx.usage.queued += 1
            waiting.append(ctx.is_only_waiting())
            ctx.usage.queued -= 1
            await anyio.lowlevel.checkpoint()
            running -= 1
        return Word()

    async with bench(tmp_path) as runtime, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(runtime.run, body)
    assert (most, waiting) == (1, [False] * 3)


async def test_a_job_whose_time_passes_while_it_waits_for_a_program_s_place_has_lost_it_to_others(
    tmp_path: Path,
) -> None:
    held = anyio.Event()

    async def body(job: Job[Any], ctx: Context) -> Word:
        async with ctx.program():
            held.set()
            await anyio.sleep_forever()
        return Word()

    outcomes: dict[str, Outcome] = {}

    async def keep(name: str, attempt: Attempt) -> None:
        outcomes[name] = await attempt.run()

    async with bench(tmp_path) as runtime, anyio.create_task_group() as group:
        rendering, waiting = runtime.attempt(body), runtime.attempt(body)
        group.start_soon(keep, "rendering", rendering)
        await held.wait()
        group.start_soon(keep, "waiting", waiting)
        await anyio.wait_all_tasks_blocked()
        for attempt in (waiting, rendering):
            attempt.cancel("timeout")
    assert {name: failure(outcome)[0] for name, outcome in outcomes.items()} == dict.fromkeys(outcomes, "Timeout")
    waited = {name: outcome.failure.waiting for name, outcome in outcomes.items() if outcome.failure}
    assert waited == {"waiting": True, "rendering": False}


async def test_a_program_that_waits_for_its_reader_does_not_wait_for_a_render(tmp_path: Path) -> None:
    reading = anyio.Event()

    async def render(job: Job[Any], ctx: Context) -> Word:
        async with ctx.program():
            await reading.wait()
        return Word()

    async def read(job: Job[Any], ctx: Context) -> Word:
        async with ctx.program(light=True):
            reading.set()
        return Word()

    async with bench(tmp_path) as runtime, anyio.create_task_group() as group:
        with anyio.fail_after(5):
            group.start_soon(runtime.run, render)
            await runtime.run(read)
    assert reading.is_set()


async def test_temporary_files_lie_in_the_attempt_s_folder_apart_from_its_outputs(tmp_path: Path) -> None:
    async def body(job: Job[Any], ctx: Context) -> Word:
        (ctx.scratch / "picture.txt").write_text("temporary")
        ctx.output("picture", ".txt", "text/plain").write_text("kept")
        return Word()

    async with bench(tmp_path) as runtime:
        outcome = await runtime.run(body)
    assert outcome.failure is None
    assert (tmp_path / "picture.txt").read_text() == "kept"
    assert (tmp_path / "temporary" / "picture.txt").read_text() == "temporary"
