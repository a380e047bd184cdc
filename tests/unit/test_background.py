"""Threads beside the event loop."""

from __future__ import annotations

import os
import signal
import threading

import anyio

from worker.background import Background
from worker.daemon import Beside, serve


def test_work_goes_on_until_it_is_told_to_stop() -> None:
    began = threading.Event()

    def work(stop: threading.Event) -> None:
        began.set()
        stop.wait()

    background = Background("test", work)
    background.start()
    assert began.wait(5)
    assert not background.join(0)
    background.stop()
    assert background.join(5)


def test_work_that_ends_by_a_defect_begins_again() -> None:
    calls: list[int] = []
    again = threading.Event()

    def work(stop: threading.Event) -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise ValueError("a defect")
        again.set()
        stop.wait()

    background = Background("test", work, again_s=0)
    background.start()
    assert again.wait(5)
    background.stop()
    assert background.join(5)
    assert calls == [0, 1]


def test_a_defect_is_told_without_its_words_which_may_be_secret() -> None:
    told: list[str] = []
    again = threading.Event()

    def work(stop: threading.Event) -> None:
        if told:
            again.set()
            stop.wait()
        else:
            raise ValueError("password=secret")

    background = Background("relay", work, failed=told.append, again_s=0)
    background.start()
    assert again.wait(5)
    background.stop()
    assert background.join(5)
    assert told == ["relay has ended by a defect (ValueError), and begins again"]


async def test_a_worker_without_jobs_says_that_it_drains_and_ends_what_comes_in_before_what_goes_out() -> None:
    told: list[str] = []

    def work(name: str, stop: threading.Event) -> None:
        stop.wait()
        told.append(name)

    beside = Beside(
        [Background("in", lambda stop: work("in", stop))],
        [Background("out", lambda stop: work("out", stop))],
        lambda: told.append("draining"),
    )

    async def terminate() -> None:
        await anyio.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGTERM)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(terminate)
            assert await serve(None, beside=beside) == "drained"
    assert told == ["draining", "in", "out"]
