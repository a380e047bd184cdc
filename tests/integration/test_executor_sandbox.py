"""What an executor can and cannot do at each level that this host has, and how it ends with its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.executors import order, processes, sandboxes, settings, until
from worker.executor import Executor
from worker.sandbox import Rlimits, Sandbox, SandboxLevel

REPOSITORY = Path(__file__).parents[2]
SECRET = "a-secret-of-the-courier"


@pytest.fixture(params=sandboxes(), ids=lambda sandbox: sandbox.report.level.value)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    found: Sandbox = request.param
    return found


async def found_by(code: str, folder: Path, sandbox: Sandbox, rlimits: Rlimits | None = None, **given: Any) -> Any:
    """What a handler finds that runs `code` at that level; the courier's environment holds a secret."""
    environ = os.environ | {"MEDIAMILL_DATABASE_URL": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}
    async with Executor(settings(folder, sandbox, environ=environ, rlimits=rlimits)) as executor:
        outcome = await executor.run(order(folder, "test.code", code=code, given=given), time_limit_s=60)
    assert outcome.failure is None, outcome.failure
    assert outcome.result is not None
    return outcome.result["found"]


@contextlib.contextmanager
def canary(folder: Path) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".canary-", suffix=".env") as file:
        file.write(SECRET)
        file.flush()
        yield Path(file.name)


READ = """
found = {}
for path in given["paths"]:
    try:
        found[path] = open(path, errors="replace").read()
    except OSError as error:
        found[path] = type(error).__name__
"""


async def test_files_that_it_does_not_need_are_hidden_where_the_report_says_so(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    with canary(Path.home()) as at_home, canary(REPOSITORY) as in_repository, canary(Path("/etc")) as in_etc:
        paths = [str(at_home), str(in_repository), str(in_etc), "/etc/passwd"]
        found = await found_by(READ, tmp_path, sandbox, paths=paths)
    hidden = dict.fromkeys(paths, "FileNotFoundError")
    assert (found == hidden) == sandbox.report.secrets_hidden


ENVIRONMENTS = """
import glob, os
found = {"own": dict(os.environ), "others": "", "pids": []}
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        found["others"] += open(path, errors="replace").read().replace("\\0", " ")
    except OSError:
        continue
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        found["pids"].append(open(path, errors="replace").read().replace("\\0", " "))
    except OSError:
        continue
"""


async def test_it_sees_no_other_process_and_no_environment_but_its_own(tmp_path: Path, sandbox: Sandbox) -> None:
    # A neighbour of the same user, as the courier is one: what counts is what stands in its /proc.
    neighbour = subprocess.Popen(["sleep", "4711"], env={"NEIGHBOUR": SECRET})  # noqa: ASYNC220
    try:
        found = await found_by(ENVIRONMENTS, tmp_path, sandbox)
    finally:
        neighbour.kill()
        neighbour.wait()
    assert SECRET not in str(found["own"])
    assert found["own"]["HF_HUB_OFFLINE"] == "1"
    sees_others = SECRET in found["others"] or any("4711" in line for line in found["pids"])
    assert sees_others != sandbox.report.processes


CONNECT = """
import socket
try:
    socket.create_connection(("127.0.0.1", given["port"]), timeout=5).close()
    found = "connected"
except OSError as error:
    found = type(error).__name__
"""


async def test_it_cannot_reach_a_port_on_the_host_s_loopback_where_the_report_says_so(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = await found_by(CONNECT, tmp_path, sandbox, port=server.getsockname()[1])
    assert (found != "connected") == sandbox.report.network


WRITE = """
found = {}
for path in given["paths"]:
    try:
        with open(path, "w") as file:
            file.write("x")
        found[path] = "written"
    except OSError as error:
        found[path] = type(error).__name__
"""


async def test_it_writes_to_scratch_and_nowhere_else_where_the_report_says_so(tmp_path: Path, sandbox: Sandbox) -> None:
    name = f"planted-{os.getpid()}"
    folders = [tmp_path, tmp_path / "models", REPOSITORY, REPOSITORY / "handlers", Path("/usr"), Path(sys.prefix)]
    forbidden, allowed = [folder / name for folder in folders], tmp_path / "scratch" / name
    own_tmp = Path("/tmp") / name
    try:
        found = await found_by(WRITE, tmp_path, sandbox, paths=[str(path) for path in (*forbidden, allowed, own_tmp)])
        assert found[str(allowed)] == "written"
        assert allowed.read_text() == "x"
        assert found[str(own_tmp)] == "written"
        planted = [path for path in (*forbidden, own_tmp) if path.exists()]
        assert (planted == []) == sandbox.report.read_only
    finally:
        for path in (*forbidden, own_tmp):
            path.unlink(missing_ok=True)


LIMITS = """
import os, resource
found = {
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    "umask": os.umask(0o077),
    "stdin": os.readlink("/proc/self/fd/0"),
    "capabilities": [line for line in open("/proc/self/status") if line.startswith("CapEff")][0].split()[1],
}
print("what a library prints must not be taken for an answer")
os.write(1, b'{"op":"outcomes","items":[]}\\n')
try:
    with open("big", "wb") as file:
        file.write(bytes(2 << 20))
    found["big"] = "written"
except OSError as error:
    found["big"] = error.strerror
"""


async def test_limits_hold_and_what_is_printed_is_no_answer(tmp_path: Path, sandbox: Sandbox) -> None:
    found = await found_by(LIMITS, tmp_path, sandbox, Rlimits(file_bytes=1 << 20, open_files=512))
    capabilities = int(found.pop("capabilities"), 16)
    assert found == {"core": 0, "files": 512, "umask": 0o077, "stdin": "/dev/null", "big": "File too large"}
    if sandbox.report.level is not SandboxLevel.NONE:
        assert capabilities == 0


IMPORTS = """
import importlib.util
found = {name: importlib.util.find_spec(name) is not None for name in given["names"]}
"""


async def test_it_imports_the_courier_s_handlers_and_nothing_else_of_the_courier(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    names = ["handlers", "config", "torch", "worker", "storage", "psycopg2", "boto3", "structlog"]
    found = await found_by(IMPORTS, tmp_path, sandbox, names=names)
    assert [name for name, there in found.items() if there] == ["handlers", "config", "torch"]


def test_the_report_names_what_is_not_enforced() -> None:
    for sandbox in sandboxes():
        report = sandbox.report
        assert len(report.missing()) == [
            report.network,
            report.processes,
            report.read_only,
            report.secrets_hidden,
        ].count(False)
        assert (report.level is SandboxLevel.BUBBLEWRAP) == (report.missing() == ())
        assert (report.level is SandboxLevel.BUBBLEWRAP) == (report.reasons == ())


COURIER = """
import sys, anyio
from pathlib import Path
from tests.integration.executors import order, processes, sandboxes, settings, until
from worker.executor import Executor
async def main():
    folder, level, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    (sandbox,) = [each for each in sandboxes() if each.report.level == level]
    async with Executor(settings(folder, sandbox)) as executor, anyio.create_task_group() as group:
        async def run(act, seconds):
            await executor.run(order(folder, "test.act", act=act, seconds=seconds), time_limit_s=60)
        group.start_soon(run, "leave a program behind", seconds)
        group.start_soon(run, "start a program", seconds)
        group.start_soon(run, "render", seconds)
        if len(sys.argv) > 4:
            await until(lambda: len(processes("sleep", str(seconds))) == 2)
            await until(lambda: processes("-i", f"color=size=16x16:duration={seconds}"))
            group.start_soon(run, "hang in the loop", 100.0)
anyio.run(main)
"""


@pytest.mark.parametrize("hung", [False, True], ids=["", "while its loop hangs"])
async def test_killing_the_courier_ends_the_executor_and_all_that_it_started(
    tmp_path: Path, sandbox: Sandbox, hung: bool
) -> None:
    seconds = str(float(f"{4000 + os.getpid() % 1000}.{sum(map(ord, sandbox.report.level))}{int(hung)}"))
    argv = [
        sys.executable,
        "-c",
        COURIER,
        str(tmp_path),
        sandbox.report.level.value,
        seconds,
        *(["hung"] if hung else []),
    ]

    def programs() -> list[int]:
        return processes("sleep", seconds) + processes("-i", f"color=size=16x16:duration={seconds}")

    courier = subprocess.Popen(argv, cwd=REPOSITORY)  # noqa: ASYNC220
    try:
        await until(lambda: len(programs()) == 3 or courier.poll() is not None, seconds=30)
        assert courier.poll() is None
        if hung:
            await until(lambda: len(list((tmp_path / "scratch").iterdir())) == 4)
        courier.send_signal(signal.SIGKILL)
        await until(lambda: not programs())
        await until(lambda: not of_this_test(tmp_path))
    finally:
        courier.kill()
        courier.wait()


def of_this_test(folder: Path) -> list[int]:
    """Processes that work in the folder."""
    found = []
    for pid in processes("-m", "handlers.runtime"):
        with contextlib.suppress(OSError):
            if str(folder) in os.readlink(f"/proc/{pid}/cwd"):  # noqa: PTH115
                found.append(pid)
    return found
