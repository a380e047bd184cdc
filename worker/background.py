"""Work that runs beside the event loop, in a thread of its own, until it is told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

#: Pause before work that ended by a defect begins again.
AGAIN_S = 5.0


class Background:
    """One such thread.

    `work` is called with the event that tells it to stop, and returns soon after that is set. What it raises is a
    defect: it is logged, and the work begins again, since jobs of other messages must not wait for a restart.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[threading.Event], object],
        *,
        wake: Callable[[], object] = lambda: None,
        failed: Callable[[str], object] = lambda _: None,
        ended: Callable[[], object] = lambda: None,
        again_s: float = AGAIN_S,
    ) -> None:
        """`wake` ends a pause of the work's own when it is told to stop; `failed` is told of each defect, by its type
        and without its words, which may be secret; `ended` is called when it has stopped.
        """
        self.name = name
        self._work = work
        self._wake = wake
        self._failed = failed
        self._ended = ended
        self._again_s = again_s
        self._stop = threading.Event()
        # Not waited for at the interpreter's end: a client of a server that does not answer may hang in it.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Tells it to stop, and does not wait."""
        self._stop.set()
        self._wake()

    def join(self, within_s: float) -> bool:
        """Waits until it has ended; False where it has not within that time."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._work(self._stop)
            except Exception as error:  # the boundary of the thread: said, and begun again
                log.exception("ended by a defect, beginning again", part=self.name, in_s=self._again_s)
                self._failed(f"{self.name} has ended by a defect ({type(error).__name__}), and begins again")
                self._stop.wait(self._again_s)
        self._ended()
