"""`<executor python> -m handlers.runtime`: what must be so before anything else is imported, then the session.

Standard output is the private way to the courier: whatever a library prints goes to standard error. Standard input
carries the orders, and no program that a handler starts may inherit it.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
from typing import NoReturn

from handlers.runtime import guard, logs

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def main() -> None:
    """Becomes an executor; never returns."""
    arguments = _arguments()
    if arguments.guard:
        guard.stand_guard()
    else:
        guard.die_with_parent(signal.SIGKILL)
    orders, answers = _private_pipes()
    _limit(arguments)
    os.umask(0o077)
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logs.to_stderr()
    code = 1
    try:
        code = _converse(orders, answers)
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """At once, whatever threads are still at: decoders and device calls cannot be stopped otherwise."""
    sys.stderr.flush()
    os._exit(code)


def _converse(orders: int, answers: int) -> int:
    import anyio

    from handlers.protocol import PROTOCOL_VERSION, Hello, to_executor

    async def conversation() -> int:
        from handlers.runtime.pipe import LineReader, LineWriter

        reader, writer = LineReader(orders), LineWriter(answers)
        if (line := await reader.line()) is None:
            return 0
        hello = to_executor.validate_json(line)
        if not isinstance(hello, Hello) or hello.version != PROTOCOL_VERSION:
            raise SystemExit(f"the courier's greeting is not one of version {PROTOCOL_VERSION}: {line[:200]!r}")
        os.environ.update(dict.fromkeys(_THREADS, str(hello.cpu_threads)))
        from handlers.registry import Registry
        from handlers.runtime.device import TorchDevice
        from handlers.runtime.hub import Hub
        from handlers.runtime.session import Session

        registry = Registry.load(test_types=hello.test_types)
        hub, device = Hub(hello.checkpoints, hello.device), TorchDevice(hello.device)
        await Session(reader, writer, hello, registry, hub, device, leave=_leave).serve()
        return 0

    import logging

    try:
        return anyio.run(conversation)
    except Exception:
        logging.getLogger("handlers.runtime").exception("the executor cannot go on")
        return 1


def _private_pipes() -> tuple[int, int]:
    """Descriptors of orders and answers that no child inherits; 0 is /dev/null then, and 1 is standard error."""
    orders, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return orders, answers


def _limit(arguments: argparse.Namespace) -> None:
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_NOFILE, arguments.open_files)
    if arguments.processes is not None:
        _set(resource.RLIMIT_NPROC, arguments.processes)
    if arguments.file_bytes is not None:
        # Without this a write beyond the limit would kill the process; so it is an OSError of the one job.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _set(resource.RLIMIT_FSIZE, arguments.file_bytes)
    if arguments.data_bytes is not None:
        _set(resource.RLIMIT_DATA, arguments.data_bytes)


def _set(which: int, limit: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(which, (limit, limit))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="handlers.runtime", description="An executor; started by the worker.")
    parser.add_argument("--open-files", type=int, default=4096)
    parser.add_argument("--file-bytes", type=int)
    parser.add_argument("--data-bytes", type=int)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--guard", action="store_true", help="end all descendants where no namespace does it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
