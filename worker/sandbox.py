"""What an executor process may see and do: the strongest confinement that this host allows.

Three levels, probed by really starting a process in them:

- `bubblewrap`: an allow-list of the file system, read-only but for scratch; no network; its own processes only;
- `unshare`: no network, its own processes only; the files of the courier's user stay readable;
- `none`: a scrubbed environment, limits, and an end with its parent; nothing more.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import config
import handlers

_PR_SET_DUMPABLE = 4
#: Where the packages stand inside bubblewrap.
_INSIDE = Path("/run/mediamill")
#: What of /etc programs need to start and to draw text. No passwd, no hosts, no resolver.
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "fonts", "ssl/certs", "localtime")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: The variables of the courier that an executor may know.
_PASSED_ON = (
    "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
)  # fmt: skip
#: The PATH of an executor, whatever the courier's is.
PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROBE_TIMEOUT_S = 20


class SandboxMode(StrEnum):
    """The setting."""

    AUTO = "auto"
    """As strong as the host allows; the report says what is missing."""
    REQUIRED = "required"
    """`bubblewrap`, or no start."""
    OFF = "off"
    """`none`, for debugging."""


class SandboxLevel(StrEnum):
    """How an executor is confined."""

    BUBBLEWRAP = "bubblewrap"
    UNSHARE = "unshare"
    NONE = "none"


class SandboxUnavailable(Exception):
    """The setting asks for more than this host allows."""


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """What is enforced here; `reasons` says why it is not more, one sentence for each level that was refused."""

    level: SandboxLevel
    reasons: tuple[str, ...] = ()

    @property
    def network(self) -> bool:
        """No network, loopback of the host included."""
        return self.level is not SandboxLevel.NONE

    @property
    def processes(self) -> bool:
        """It sees no process but its own, so that no environment of another can be read."""
        return self.level is not SandboxLevel.NONE

    @property
    def read_only(self) -> bool:
        """It can write to scratch and its own /tmp alone."""
        return self.level is SandboxLevel.BUBBLEWRAP

    @property
    def secrets_hidden(self) -> bool:
        """Files that it does not need, credentials among them, do not exist for it."""
        return self.level is SandboxLevel.BUBBLEWRAP

    def missing(self) -> tuple[str, ...]:
        """What is not enforced, in words for `doctor` and `/readyz`; empty at the strongest level."""
        promises = {
            "no network": self.network,
            "sees no other process": self.processes,
            "cannot write outside scratch": self.read_only,
            "cannot read files it does not need": self.secrets_hidden,
        }
        return tuple(words for words, kept in promises.items() if not kept)


@dataclass(frozen=True, slots=True)
class View:
    """What an executor needs of this machine; every path is absolute."""

    python: Path
    """The executor's own interpreter."""
    scratch: Path
    """The one folder it may write to; its jobs' folders lie in it."""
    private: Path
    """A folder of the courier's own, where the executor's import folder is made (levels without bubblewrap)."""
    read_only: tuple[Path, ...] = ()
    """Folders and files: models, the content cache, fonts."""
    packages: Mapping[str, Path] = field(default_factory=dict)
    """More to import, by name, beside `handlers` and `config`."""
    gpu: bool = False
    """Whether the accelerators' device files are there."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a process is started, and the signal that ends it and all that it started."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    kill: signal.Signals


@dataclass(frozen=True, slots=True)
class Rlimits:
    """Limits of the executor process, in bytes; None: unlimited."""

    file_bytes: int | None = 64 << 30
    """The largest file it may write."""
    data_bytes: int | None = None
    """Private memory. CUDA maps far more than it uses: leave it unlimited with a GPU."""
    open_files: int = 4096
    processes: int = 4096
    """Processes and threads, where they are counted for the sandbox alone; root's are not counted."""


class Sandbox:
    """Builds the command lines of executors, at the level that `probe` found."""

    def __init__(self, report: SandboxReport) -> None:
        self.report = report

    def command(
        self,
        view: View,
        *,
        rlimits: Rlimits,
        environ: Mapping[str, str],
        module: Sequence[str] = ("-m", "handlers.runtime"),
    ) -> Command:
        """The command that starts `python -m handlers.runtime`; `environ` is the courier's, of which little is kept.

        Asks the interpreter where its libraries lie, so it takes a few ten milliseconds. Raises SandboxUnavailable
        where the interpreter does not run.
        """
        libraries = interpreter_paths(view.python)
        bubblewrap = self.report.level is SandboxLevel.BUBBLEWRAP
        code = _INSIDE if bubblewrap else _import_folder(view)
        # A home that ends with the process: what one that was taken over leaves there (caches of compiled code) must
        # not be loaded by the next.
        env = _environment(environ, code, Path("/tmp") if bubblewrap else view.scratch)  # noqa: S108
        python = [str(view.python), "-P", "-s", "-B", *module]
        if tuple(module) == ("-m", "handlers.runtime"):
            python += _runtime_arguments(rlimits, self.report)
        if bubblewrap:
            argv = [*_bubblewrap(view, libraries), "--", *python]
        elif self.report.level is SandboxLevel.UNSHARE:
            argv = [*_unshare(), *python]
        else:
            argv = python
        # At the level `none` the first process is the guard, which ends the others before itself. At the other levels
        # the kernel ends a whole process namespace, and waiting for good will would only give the job more time.
        kill = signal.SIGTERM if self.report.level is SandboxLevel.NONE else signal.SIGKILL
        return Command(tuple(argv), env, view.scratch, kill)


def probe(mode: SandboxMode, *, which: Callable[[str], str | None] = shutil.which) -> Sandbox:
    """Finds the strongest level by starting `true` in each; takes tens of milliseconds, once.

    Raises SandboxUnavailable where `required` cannot be had.
    """
    if mode is SandboxMode.OFF:
        return Sandbox(SandboxReport(SandboxLevel.NONE, ("the sandbox is switched off by the setting `sandbox`",)))
    reasons: list[str] = []
    if (why := _refusal(("bwrap",), [*_bubblewrap_base(), "--", "/bin/true"], which)) is None:
        return Sandbox(SandboxReport(SandboxLevel.BUBBLEWRAP))
    reasons.append(f"bubblewrap: {why}")
    if mode is SandboxMode.REQUIRED:
        raise SandboxUnavailable(
            f"sandbox is `required`, but this host does not allow it ({reasons[0]}): install the package bubblewrap"
            " and allow user namespaces, or set sandbox to `auto`"
        )
    if (why := _refusal(("unshare", "setpriv"), [*_unshare(), "/bin/true"], which)) is None:
        return Sandbox(SandboxReport(SandboxLevel.UNSHARE, tuple(reasons)))
    reasons.append(f"unshare: {why}")
    return Sandbox(SandboxReport(SandboxLevel.NONE, tuple(reasons)))


def set_undumpable() -> None:
    """Closes this process's /proc entries (`environ`, `mem`) to others of the same user. Raises OSError.

    It guards the courier's credentials where the executor shares its process namespace; root is not kept out.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE, 0) was refused")


def interpreter_paths(python: Path) -> tuple[Path, ...]:
    """The folders that an interpreter imports from and runs out of: prefix, base prefix, `sys.path`.

    Raises SandboxUnavailable where it does not run.
    """
    program = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]))"
    environ = {"PATH": os.defpath}
    try:
        said = subprocess.run(
            [python, "-P", "-s", "-c", program], env=environ, capture_output=True, text=True, check=True,
            timeout=_PROBE_TIMEOUT_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"the executor's interpreter {python} does not run: {error}") from error
    folders = [Path(each) for each in json.loads(said.stdout)]
    return tuple(dict.fromkeys(each for each in folders if each.is_dir()))


def _refusal(programs: Sequence[str], argv: Sequence[str], which: Callable[[str], str | None]) -> str | None:
    for program in programs:
        if which(program) is None:
            return f"{program} is not installed"
    try:
        done = subprocess.run(
            argv, env={"PATH": os.defpath}, capture_output=True, text=True, check=False, timeout=_PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"it ended with {done.returncode}"
    return None


def _bubblewrap_base() -> list[str]:
    argv = [
        "bwrap", "--die-with-parent", "--new-session", "--unshare-user-try", "--unshare-net", "--unshare-pid",
        "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--cap-drop", "ALL",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",  # noqa: S108
    ]  # fmt: skip
    for folder in _SYSTEM:
        argv += _system_folder(Path(folder))
    for name in _ETC:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return argv


def _system_folder(folder: Path) -> list[str]:
    # On a merged-usr system /lib is a link to usr/lib: kept a link, so that both names are one folder inside too.
    if folder.is_symlink():
        return ["--symlink", str(folder.readlink()), str(folder)]
    return ["--ro-bind-try", str(folder), str(folder)]


def _bubblewrap(view: View, libraries: Sequence[Path]) -> list[str]:
    argv = _bubblewrap_base()
    # Outer folders first: a later mount hides what an earlier one put below it.
    for folder in sorted({*libraries, *view.read_only}, key=lambda each: (len(each.parts), each)):
        if not folder.is_relative_to("/usr"):
            argv += ["--ro-bind-try", str(folder), str(folder)]
    for name, path in _packages(view).items():
        argv += ["--ro-bind", str(path), str(_INSIDE / name)]
    argv += ["--bind", str(view.scratch), str(view.scratch), "--chdir", str(view.scratch)]
    if view.gpu:
        devices = [*Path("/dev").glob("nvidia*"), Path("/dev/dri"), Path("/dev/kfd"), Path("/dev/dxg")]
        for device in devices:
            argv += ["--dev-bind-try", str(device), str(device)]
        argv += ["--ro-bind-try", "/sys", "/sys"]
    # The folders on the way to the mounts lie in memory, and were writable.
    return [*argv, "--remount-ro", "/"]


def _unshare() -> list[str]:
    return [
        "setpriv", "--pdeathsig", "KILL", "--",
        "unshare", "--user", "--map-current-user", "--net", "--ipc", "--uts", "--pid", "--mount-proc", "--kill-child",
        "--", "setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--",
    ]  # fmt: skip


def _packages(view: View) -> dict[str, Path]:
    ours = {module.__name__: Path(module.__path__[0]).resolve() for module in (handlers, config)}
    return {**view.packages, **ours}


def _import_folder(view: View) -> Path:
    """A folder of links to the courier's own packages: one version of the code on both sides, nothing more."""
    folder = view.private / "import"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, path in _packages(view).items():
        link, fresh = folder / name, folder / f".{name}.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(path)
        fresh.replace(link)
    return folder


def _environment(environ: Mapping[str, str], code: Path, home: Path) -> dict[str, str]:
    kept = {name: environ[name] for name in _PASSED_ON if name in environ}
    return {
        "LANG": "C.UTF-8",
        **kept,
        "PATH": PROGRAMS,
        "HOME": str(home),
        "USER": "mediamill",
        "LOGNAME": "mediamill",
        "PYTHONPATH": str(code),
        "PYTHONUNBUFFERED": "1",
    }


def _runtime_arguments(rlimits: Rlimits, report: SandboxReport) -> list[str]:
    arguments = ["--open-files", str(rlimits.open_files)]
    if rlimits.file_bytes is not None:
        arguments += ["--file-bytes", str(rlimits.file_bytes)]
    if rlimits.data_bytes is not None:
        arguments += ["--data-bytes", str(rlimits.data_bytes)]
    if report.processes:
        return [*arguments, "--processes", str(rlimits.processes)]
    # Without a namespace the user's other processes would be counted too.
    return [*arguments, "--guard"]
