"""Set up a working copy: `python3 -m deploy.bootstrap demo`, `test` for the tests' tools, `bench` for a peer as well.

Each step is keyed by a digest of its inputs; its stamp is written only after it has succeeded. So a second run does
nothing, a run after an interruption goes on where the other stopped, and a changed lock file redoes what depends on it.
A file lock lets two at once follow each other. Everything lands in this folder (.venv*, .tools, .servers,
.bootstrap) except what only the system's package manager can install.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy import host
from deploy.host import Python, SetupError, SystemPackage

ROOT = Path(__file__).resolve().parents[1]


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def digest(*inputs: str) -> str:
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()


@dataclass(frozen=True)
class Stamp:
    """The proof, in a file, that a step succeeded, for which inputs, and with which parts."""

    path: Path

    def read(self) -> tuple[str, tuple[str, ...]]:
        """The digest of the inputs and the parts; empty where the step has not succeeded."""
        try:
            key, *parts = self.path.read_text().split()
        except (FileNotFoundError, ValueError):
            return "", ()
        return key, tuple(parts)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    def write(self, key: str, parts: Sequence[str] = ()) -> None:
        self.path.parent.mkdir(exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(" ".join((key, *parts)) + "\n")
        fresh.replace(self.path)


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    say(f"{what} ...")
    started = time.monotonic()
    yield
    say(f"{what}: done in {time.monotonic() - started:.1f} s")


@contextlib.contextmanager
def only_one(root: Path) -> Iterator[int]:
    """Hold the set-up's lock; a second run waits here and says so. Gives the lock's descriptor.

    Children inherit it: when a set-up is killed, the lock stays until the installer it had started has ended too.
    """
    (root / ".bootstrap").mkdir(exist_ok=True)
    with (root / ".bootstrap" / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            say(f"another set-up is at work here (process {lock.read().strip() or 'unknown'}): waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


@dataclass(frozen=True)
class Setup:
    """One run of the set-up: where, by which interpreter, under which lock."""

    root: Path
    python: Python
    lock: int

    def stamp(self, name: str) -> Stamp:
        return Stamp(self.root / ".bootstrap" / name)

    def call(self, command: Sequence[str], environ: dict[str, str] | None = None) -> None:
        """Run a command. Raises SetupError with the end of what it printed."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            pass_fds=(self.lock,),
        )
        if done.returncode != 0:
            tail = "\n".join(done.stdout.strip().splitlines()[-15:])
            raise SetupError(f"{' '.join(command[:4])} ... ended with {done.returncode}:\n{tail}")

    def installer(self) -> None:
        """uv, hash-pinned, into .tools: by pip, which is the one tool that a Python is likely to bring."""
        lock = self.root / "requirements" / "uv.txt"
        stamp, key = self.stamp("uv"), digest(str(self.root), self.python.path, lock.read_text())
        if stamp.read()[0] == key and self._uv().exists():
            return
        stamp.clear()
        with progress("uv, the installer"), tempfile.TemporaryDirectory(dir=self.root / ".bootstrap") as scratch:
            target = self.root / ".tools" / "uv"
            shutil.rmtree(target, ignore_errors=True)
            options = ["install", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
            pip = self._pip(Path(scratch))
            self.call([*pip, *options, "--require-hashes", "--target", str(target), "-r", str(lock)])
        stamp.write(key)

    def _uv(self) -> Path:
        return self.root / ".tools" / "uv" / "bin" / "uv"

    def _pip(self, scratch: Path) -> list[str]:
        """A pip to run: one in a throw-away environment, else the interpreter's own, else after installing ensurepip.

        Debian splits ensurepip off into python3-venv, and often has no pip either.
        """

        def works(command: Sequence[str]) -> bool:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        own, venv = [self.python.path, "-m", "pip"], scratch / "venv"
        fresh = [self.python.path, "-m", "venv", str(venv)]
        if works(fresh):
            return [str(venv / "bin" / "python"), "-m", "pip"]
        if works([*own, "--version"]):
            return own
        versioned = f"python{self.python.version[0]}.{self.python.version[1]}-venv"
        package = SystemPackage((versioned, "python3-venv"), "virtual environments", lambda: False)
        say(f"{versioned}, by apt-get (this Python has neither venv nor pip)")
        refusal = host.apt_install([package], [self.lock])
        if refusal is None and works([*fresh, "--clear"]):
            return [str(venv / "bin" / "python"), "-m", "pip"]
        raise SetupError(f"this Python has neither venv nor pip; install {versioned} and run again ({refusal})")

    def environment(self, name: str, layers: Sequence[str], *, project: bool, size: str) -> None:
        """A virtual environment of hash-pinned layers, the project itself in it where asked.

        Layers that an earlier stage has put there stay: the demo takes nothing from the tests.
        """
        path, stamp = self.root / name, self.stamp(name)
        before, present = stamp.read()
        wanted = tuple(dict.fromkeys([*present, *layers]))
        locks = [self.root / "requirements" / f"{layer}.txt" for layer in wanted]
        build = self.root / "requirements" / "build.txt"
        inputs = [lock.read_text() for lock in (build, *locks)]
        if project:
            inputs.append((self.root / "pyproject.toml").read_text())
        key = digest(str(self.root), self.python.path, *wanted, *inputs)
        interpreter = path / "bin" / "python"
        whole = interpreter.exists() and before != ""
        if whole and before == key:
            return
        stamp.clear()
        with progress(f"{name} ({' + '.join(wanted)}; {size})"):
            uv_env, uv_options = self._uv_settings()
            uv = str(self._uv())
            if not whole or os.path.realpath(interpreter) != os.path.realpath(self.python.path):
                self.call([uv, "venv", "-q", "--clear", "--python", self.python.path, str(path)], uv_env)
            target = ["--python", str(interpreter)]
            hashed = ["--require-hashes", "--build-constraints", str(build)]
            locked = [str(lock) for lock in locks]
            # The command line starts often; where no bytecode may be written, each start would compile all it imports.
            compiled = ["--compile-bytecode"] if project else []
            self.call([uv, "pip", "sync", "-q", *compiled, *hashed, *uv_options, *target, *locked], uv_env)
            if project:
                self.call([uv, "pip", "install", "-q", "--offline", "--no-deps", *target, "-e", str(self.root)], uv_env)
        stamp.write(key, wanted)

    def _uv_settings(self) -> tuple[dict[str, str], list[str]]:
        asked = subprocess.run(
            [self.python.path, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
        )
        pip = host.pip_settings(asked.stdout if asked.returncode == 0 else "", os.environ)
        env, options = host.uv_settings(pip, os.environ)
        # With several indexes, any may have a wheel of the digest asked for: the digest is what is trusted.
        ours = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
        return {**env, **ours}, options

    def system(self, packages: Sequence[SystemPackage], *, required: bool) -> None:
        """The system's packages, where missing and permitted. Raises SetupError where a required one cannot be had."""
        missing = [package for package in packages if not package.present()]
        if not missing:
            return
        names = " ".join(package.names[-1] for package in missing)
        with progress(f"{names}, by apt-get"):
            refusal = host.apt_install(missing, [self.lock])
        if refusal is None:
            return
        purposes = ", ".join(package.purpose for package in missing)
        line = f"please install: {names} (for {purposes}; {refusal})"
        if required:
            raise SetupError(line)
        say(line)

    def jars(self) -> None:
        """The jars of each server that has a pom.xml in tests/servers/, into .servers/, each checked by its digest."""
        for pom in sorted(self.root.glob("tests/servers/*/pom.xml")):
            name, sums = pom.parent.name, pom.with_name("jars.sha256")
            stamp, target = self.stamp(f"jars-{name}"), self.root / ".servers" / name
            key = digest(pom.read_text(), sums.read_text())
            if target.is_dir() and stamp.read()[0] == key:
                continue
            self.system([host.MAVEN], required=True)
            stamp.clear()
            with progress(f"{name}, by Maven"):
                shutil.rmtree(target, ignore_errors=True)
                copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
                self.call(["mvn", "-q", "-B", "-f", str(pom), *copy])
                check_jars(target, sums.read_text())
            stamp.write(key)


def jar_sums(folder: Path) -> str:
    """`sha256sum`'s format: one line a jar, sorted by name."""
    jars = sorted(folder.glob("*.jar"))
    return "".join(f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}\n" for jar in jars)


def check_jars(folder: Path, expected: str) -> None:
    """Raises SetupError where the folder does not hold exactly the jars of that list, byte for byte."""
    wrong = set(jar_sums(folder).splitlines()) ^ set(expected.splitlines())
    if wrong:
        names = sorted({line.split()[1] for line in wrong})
        raise SetupError(f"these jars are not those of jars.sha256: {', '.join(names[:5])} ({len(names)} in all)")


def set_up(root: Path, stage: str) -> None:
    python = host.find_python()
    with only_one(root) as lock:
        setup = Setup(root, python, lock)
        test = stage in ("test", "bench")
        wanted = [host.FFMPEG, host.FONTS, host.CJK_FONT, host.BUBBLEWRAP, host.ESPEAK]
        setup.system(wanted, required=False)
        if test:
            setup.system([host.JAVA], required=True)
        setup.installer()
        setup.environment(".venv", ["courier", "dev"] if test else ["courier"], project=True, size="0.3 GB")
        executor = ["executor", "executor-test"] if test else ["executor"]
        setup.environment(".venv-executor", executor, project=False, size="5.4 GB, torch and all")
        if test:
            setup.jars()
        if stage == "bench":
            setup.environment(".venv-bench", ["bench"], project=False, size="0.3 GB, the peers")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="deploy.bootstrap", description="Set up this working copy.")
    parser.add_argument("stage", choices=["demo", "test", "bench"])
    stage = parser.parse_args(arguments).stage
    try:
        set_up(ROOT, stage)
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
