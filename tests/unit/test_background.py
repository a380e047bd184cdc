"""Threads beside the event loop."""

from __future__ import annotations

import threading

from worker.background import Background


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
