"""`test.fault` is as bad as it promises; without torch, and where it ends the process, in one of its own."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from handlers.errors import InvalidInput, ResourceExhausted, Retry
from handlers.registry import Registry
from handlers.test.fault import Fault, FaultParams, FaultyCode, Kind, on_device
from tests.handlers.conftest import DirectContext, job

pytestmark = pytest.mark.handlers


@pytest.fixture
def bare(tmp_path: Path) -> DirectContext:
    """A context without models."""
    return DirectContext({}, tmp_path)


def test_it_is_registered_only_for_tests() -> None:
    assert "test.fault" in Registry.load(test_types=True)
    assert "test.fault" not in Registry.load()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Kind.RAISE, FaultyCode),
        (Kind.RETRY, Retry),
        (Kind.INVALID_INPUT, InvalidInput),
        (Kind.RESOURCE_EXHAUSTED, ResourceExhausted),
    ],
)
async def test_errors_are_raised_with_their_message(kind: Kind, error: type[Exception], bare: DirectContext) -> None:
    with pytest.raises(error, match="as asked"):
        await Fault().run(job(Fault(), {}, fault=kind, message="as asked"), bare)


async def test_it_behaves_after_the_attempts_it_was_told(bare: DirectContext) -> None:
    with pytest.raises(FaultyCode):
        await Fault().run(job(Fault(), {}, attempt=2, fault="raise", only_first_attempts=2), bare)
    assert (await Fault().run(job(Fault(), {}, attempt=3, fault="raise", only_first_attempts=2), bare)).attempt == 3


async def test_broken_promises_are_broken(bare: DirectContext) -> None:
    await Fault().run(job(Fault(), {}, fault="missing_output"), bare)
    assert not bare.outputs["missing"].exists()
    await Fault().run(job(Fault(), {}, fault="nul_text"), bare)
    assert "\x00" in bare.texts[0][1]
    await Fault().run(job(Fault(), {}, fault="lone_surrogate"), bare)
    assert "\ud800" in bare.texts[1][1]
    assert math.isnan((await Fault().run(job(Fault(), {}, fault="nan"), bare)).number)


async def test_a_sleep_ends_on_cancel(bare: DirectContext) -> None:
    with anyio.move_on_after(0) as scope:
        await Fault().run(job(Fault(), {}, fault="sleep"), bare)
    assert scope.cancelled_caught


def test_a_poisoned_batch_raises_and_a_poisoned_sample_fails_alone() -> None:
    good, poison, alone, few = (
        FaultParams(fault=kind) for kind in (Kind.SAMPLE, Kind.POISON_BATCH, Kind.POISON_SAMPLE, Kind.TOO_FEW_RESULTS)
    )
    assert on_device(None, [good, good]) == ["good", "good"]
    with pytest.raises(FaultyCode):
        on_device(None, [good, poison])
    first, second = on_device(None, [good, alone])
    assert first == "good"
    assert isinstance(second, FaultyCode)
    assert on_device(None, [good, few]) == []


_RUN = """
import sys, uuid, anyio
from handlers.declaration import Job
from handlers.test.fault import Fault, FaultParams
params = FaultParams(fault=sys.argv[1], seconds=3600, exit_code=7)
anyio.run(Fault().run, Job(uuid.UUID(int=1), 1, params, {}, 0), None)
"""


@pytest.mark.parametrize(
    ("kind", "code"), [(Kind.SEGFAULT, -signal.SIGSEGV), (Kind.EXIT, 7), (Kind.KILL, -signal.SIGKILL)]
)
def test_the_process_ends(kind: Kind, code: int) -> None:
    assert subprocess.run([sys.executable, "-c", _RUN, kind], check=False, timeout=60).returncode == code


@pytest.mark.parametrize("kind", [Kind.HANG_LOOP, Kind.HANG_GIL])
def test_the_process_hangs(kind: Kind) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", _RUN, kind], check=False, timeout=3)


def test_memory_is_really_taken() -> None:
    program = (
        "import re; from handlers.test.fault import _allocate\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak(); _allocate(200); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 190 * 1024
