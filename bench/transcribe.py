"""Seconds of sound that are written down in a second: `audio.transcribe` beside `whisper.transcribe`.

Both have the same network, of the size of whisper-base with random weights, in one process, with the same number of
threads, and write the same files: short ones, and a longer one, of somebody who speaks without long pauses (so that
leaving out silence gains nothing). Ours runs as in a worker: the handler through the executor's scheduler, all files
as jobs at once, windows in batches. The peer writes one file after the other.
Same settings on both sides: the language is found out, temperature 0 alone, no conditioning on the text before (ours
never does, and the peer's windows would have longer prompts by it). Random weights do not know when to stop: they are
made so that the text of every window, on both sides, has the same number of tokens. Rounds alternate.

    python -m bench.transcribe --results bench/results

It needs the executor's environment, and starts itself anew in `.venv-executor` where it is run by another.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
EXECUTOR_PYTHON = _ROOT / ".venv-executor" / "bin" / "python"
RESULTS = Path(__file__).with_name("results")
NAME = "whisper-base-random"


@dataclass(frozen=True, slots=True)
class File:
    """A recording."""

    path: Path
    seconds: float


@dataclass(slots=True)
class Measured:
    """What was seen of one side."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """Of each round."""
    windows: int = 0
    """That were decoded in the last round."""
    tokens: int = 0

    def rate(self, sound_s: float) -> float:
        """Seconds of sound in a second, the median of the rounds."""
        return sound_s / median(self.seconds)


def recordings(folder: Path, *, short: int, long_s: float) -> list[File]:
    """Files of 6 to 20 s, and one longer."""
    import numpy

    from tests.handlers.voices import encoded, silence, speech

    files = []
    for n, seconds in enumerate([*(6 + 14 * n / max(1, short - 1) for n in range(short)), long_s]):
        parts: list[Any] = []
        while sum(map(len, parts)) < seconds * 16_000:
            parts += [speech(3 + (n + len(parts)) % 4, seed=n * 100 + len(parts)), silence(0.4)]
        samples = numpy.concatenate(parts)[: round(seconds * 16_000)]
        files.append(File(encoded(folder / f"{n}.mp3", samples, "-b:a", "64k"), seconds))
    return files


class Ours:
    """The handler, as an executor runs it."""

    name = "audio.transcribe"

    def __init__(self, spec: Any, scratch: Path, threads: int, max_batch: int) -> None:
        from handlers.runtime.device import TorchDevice
        from handlers.runtime.hub import Hub
        from handlers.runtime.scheduler import Scheduler

        self._scratch = scratch
        self._threads = threads
        self._hub = Hub([spec], "cpu")
        self._device = TorchDevice("cpu")
        self._scheduler = Scheduler
        self._max_batch = max_batch

    def network(self) -> Any:
        """openai-whisper's network, loaded."""
        with self._hub.lease(NAME) as model:
            return model.network

    def run(self, files: Sequence[File]) -> list[dict[str, Any]]:
        """Results of all files, as jobs at once."""
        import anyio

        return anyio.run(self._run, files)

    async def _run(self, files: Sequence[File]) -> list[dict[str, Any]]:
        import anyio

        from handlers.audio.transcribe import Transcribe
        from handlers.protocol import Limits, Order
        from handlers.registry import Registry
        from handlers.runtime.attempt import Attempt
        from handlers.runtime.context import Tools

        scheduler = self._scheduler(self._hub, self._device, max_batch=self._max_batch)
        results: list[dict[str, Any]] = [{}] * len(files)
        async with anyio.create_task_group() as service:
            service.start_soon(scheduler.run)
            tools = Tools(
                hub=self._hub,
                scheduler=scheduler,
                cpu=anyio.CapacityLimiter(self._threads),
                programs=anyio.CapacityLimiter(self._threads),
                roles={"transcribe": NAME},
                limits=Limits(max_bytes=1 << 30, max_pixels=1 << 26, max_frames=100),
                tell=lambda _: None,
                tasks=service,
            )

            async def one(number: int, file: File) -> None:
                order = Order(
                    key=f"{uuid.uuid4()}:1",
                    type="audio.transcribe",
                    params={"temperatures": [0.0]},
                    inputs={"audio": str(file.path)},
                    scratch=str(self._scratch / str(number)),
                    seed=1,
                )
                outcome = await Attempt(order, Registry([Transcribe]), tools).run()
                if outcome.failure is not None:
                    raise RuntimeError(outcome.failure.traceback)
                results[number] = outcome.result or {}

            async with anyio.create_task_group() as jobs:
                for number, file in enumerate(files):
                    jobs.start_soon(one, number, file)
            service.cancel_scope.cancel()
        scheduler.close()
        return results


class Peer:
    """`whisper.transcribe`, one file after the other."""

    name = "whisper.transcribe"

    def __init__(self, network: Any) -> None:
        self._network = network

    def run(self, files: Sequence[File]) -> list[dict[str, Any]]:
        """Results of all files."""
        import whisper

        return [
            whisper.transcribe(
                self._network, str(file.path), temperature=0.0, condition_on_previous_text=False, fp16=False
            )
            for file in files
        ]


def counted(network: Any) -> tuple[list[int], Any]:
    """Counts of (windows encoded, rows of the decoder's steps), raised while the network works; and how to stop."""
    counts = [0, 0]

    def encoded(_module: Any, _given: Any, result: Any) -> None:
        counts[0] += result.shape[0]

    def decoded(_module: Any, given: Any, _result: Any) -> None:
        counts[1] += given[0].shape[0]

    hooks = [network.encoder.register_forward_hook(encoded), network.decoder.register_forward_hook(decoded)]
    return counts, lambda: [hook.remove() for hook in hooks]


def machine(threads: int) -> dict[str, object]:
    """What it was measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": ", ".join(sorted(models)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 1),
    }


def measure(given: argparse.Namespace) -> dict[str, object]:
    """The whole run."""
    import torch

    from bench.whisper_base import make
    from handlers.protocol import CheckpointSpec

    torch.set_num_threads(given.threads)
    facts = machine(given.threads)
    with tempfile.TemporaryDirectory(prefix="mediamill-bench-") as name:
        folder = Path(name)
        (folder / "model").mkdir()
        (folder / "scratch").mkdir()
        make(folder / "model", tokens=given.tokens)
        spec = CheckpointSpec(name=NAME, family="whisper", path=str(folder / "model"), dtype="float32", digest="0" * 64)
        files = recordings(folder, short=given.short, long_s=given.long)
        sound_s = sum(file.seconds for file in files)
        ours = Ours(spec, folder / "scratch", given.threads, given.max_batch)
        network = ours.network()
        sides: list[tuple[Ours | Peer, Measured]] = [
            (ours, Measured(ours.name)),
            (Peer(network), Measured(Peer.name)),
        ]
        for n in range(given.rounds + 1):
            for side, measured in sides:
                counts, stop = counted(network)
                started = time.monotonic()
                results = side.run(files[:1] if n == 0 else files)
                took = time.monotonic() - started
                stop()
                assert all(result["text"] for result in results)
                if n:  # the round before is for caches, and what is compiled
                    measured.seconds.append(took)
                    measured.windows, measured.tokens = counts
                    print(f"round {n}: {measured.name} {took:.1f} s", file=sys.stderr)
    facts["load_after"] = round(os.getloadavg()[0], 1)
    rates = [measured.rate(sound_s) for _, measured in sides]
    times = median(theirs / mine for mine, theirs in zip(sides[0][1].seconds, sides[1][1].seconds, strict=True))
    table = ["| | seconds of sound a second | rounds, s | windows encoded | rows decoded |", "|---|---:|---|---:|---:|"]
    for (_, measured), rate in zip(sides, rates, strict=True):
        rounds = ", ".join(f"{seconds:.1f}" for seconds in measured.seconds)
        table.append(f"| {measured.name} | {rate:.1f} | {rounds} | {measured.windows} | {measured.tokens} |")
    table += ["", f"Round by round, audio.transcribe writes {times:.2f} times the sound of its peer (the median)."]
    print("\n".join(table))
    return {
        "machine": facts,
        "command": "python -m bench.transcribe " + " ".join(given.words),
        "sound_s": round(sound_s, 1),
        "files": len(files),
        "tokens_a_window": given.tokens,
        "max_batch": given.max_batch,
        "rounds": given.rounds,
        "times": round(times, 2),
        "sides": [
            {"name": m.name, "rate": round(rate, 2), "seconds": [round(s, 2) for s in m.seconds], "windows": m.windows,
             "rows": m.tokens}
            for (_, m), rate in zip(sides, rates, strict=True)
        ],
        "table": table,
    }  # fmt: skip


def write(found: dict[str, Any], folder: Path) -> None:
    """Keeps the numbers, and a page of them."""
    folder.mkdir(exist_ok=True)
    (folder / "transcribe.json").write_text(json.dumps(found, indent=2) + "\n")
    about = (__doc__ or "").strip().split("\n\n")
    facts = found["machine"]
    where = (
        f"{facts['cores']} cores ({facts['processor']}), {facts['threads']} threads, Python {facts['python']}, torch"
        f" {facts['torch']}; {found['files']} files, {found['sound_s']:.0f} s of sound together,"
        f" {found['tokens_a_window']} tokens a window, batches of up to {found['max_batch']}; {found['rounds']} rounds."
        f" Load average before and after: {facts['load_before']} and {facts['load_after']}."
    )
    page = [
        "# Transcription",
        "",
        *about[1].splitlines(),
        "",
        f"    {found['command']}",
        "",
        where,
        "",
        *found["table"],
    ]
    (folder / "transcribe.md").write_text("\n".join(page) + "\n")


def main() -> None:
    """The command."""
    if find_spec("whisper") is None:
        os.execv(EXECUTOR_PYTHON, [str(EXECUTOR_PYTHON), "-m", "bench.transcribe", *sys.argv[1:]])  # noqa: S606
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", type=int, default=12, help="how many short files")
    parser.add_argument("--long", type=float, default=180, help="seconds of the longer file")
    parser.add_argument("--tokens", type=int, default=80, help="of the text of a window")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="folder to write to; none: only print")
    given = parser.parse_args()
    given.words = sys.argv[1:]
    found = measure(given)
    if given.results is not None:
        write(found, given.results)


if __name__ == "__main__":
    main()
