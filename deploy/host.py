"""What the set-up asks of the machine: a fitting Python, how pip reaches its index, programs from the package manager.

Standard library only, and it parses with any Python 3.8+: an old one must get as far as saying what is missing.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = ((3, 11), (3, 12))


class SetupError(Exception):
    """The set-up cannot go on; the text says what to do."""


@dataclass(frozen=True)
class Python:
    """An interpreter outside any virtual environment."""

    path: str
    version: tuple[int, int]


def find_python(candidates: Sequence[str] = ("python3.12", "python3.11", "python3")) -> Python:
    """The interpreter to build environments with: the running one where it fits, else the first on PATH that does.

    Raises SetupError where there is none.
    """
    running = (sys.version_info[0], sys.version_info[1])
    if running in SUPPORTED:
        return Python(os.path.realpath(getattr(sys, "_base_executable", sys.executable)), running)
    ask = "import os, sys; print(os.path.realpath(sys._base_executable)); print(*sys.version_info[:2])"
    for name in candidates:
        path = shutil.which(name)
        if path is None:
            continue
        answer = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=False)
        if answer.returncode != 0:  # a version manager's shim for a version that is not selected
            continue
        real, version = answer.stdout.splitlines()
        major, minor = (int(part) for part in version.split())
        if (major, minor) in SUPPORTED:
            return Python(real, (major, minor))
    raise SetupError(
        f"mediamill needs Python 3.11 or 3.12, and this is {running[0]}.{running[1]}: "
        "install one (Debian, Ubuntu: apt-get install python3.12 or python3.11) and run the command again"
    )


def pip_settings(pip_config: str, environ: Mapping[str, str]) -> dict[str, str]:
    """pip's own settings by long option name, from the output of `pip config list` and from PIP_* (which win)."""
    settings: dict[str, str] = {}
    for line in pip_config.splitlines():
        found = re.match(r"(?:global|install)\.([a-z-]+)=(.+)", line)
        if found:
            settings[found[1]] = str(ast.literal_eval(found[2]))
    for name, value in environ.items():
        if name.startswith("PIP_") and value:
            settings[name[4:].lower().replace("_", "-")] = value
    return settings


def uv_settings(pip: Mapping[str, str], environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The same index for uv as for pip, which uv does not ask: environment to add, and options to pass.

    What is already set for uv stays. Folders of wheels that are not there are left out: pip warns of them, uv refuses.
    """
    links = [link for link in pip.get("find-links", "").split() if "://" in link or Path(link).is_dir()]
    wanted = {
        "UV_DEFAULT_INDEX": pip.get("index-url", ""),
        "UV_EXTRA_INDEX_URL": pip.get("extra-index-url", ""),
        "UV_FIND_LINKS": ",".join(links),
        "UV_INSECURE_HOST": pip.get("trusted-host", ""),
        "UV_HTTP_TIMEOUT": pip.get("default-timeout", pip.get("timeout", "")),
        "SSL_CERT_FILE": pip.get("cert", ""),
        "HTTPS_PROXY": pip.get("proxy", ""),
    }
    if "UV_INDEX_URL" in environ:
        del wanted["UV_DEFAULT_INDEX"]
    env = {name: value for name, value in wanted.items() if value and name not in environ}
    no_index = pip.get("no-index", "").lower() in ("1", "true", "yes", "on")
    return env, ["--no-index"] if no_index else []


def java_major(path: str) -> int | None:
    """The major version of the Java at `path`, or None where it does not run."""
    try:
        answer = subprocess.run([path, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    found = re.search(r'version "(\d+)(?:\.(\d+))?', answer.stderr)
    if found is None:
        return None
    return int(found[2] or 0) if found[1] == "1" else int(found[1])  # Java 8 calls itself 1.8


def has_java() -> bool:
    path = shutil.which("java")
    return path is not None and (java_major(path) or 0) >= 17


def has_font(names: Sequence[str], folders: Sequence[str] = ("/usr/share/fonts", "/usr/local/share/fonts")) -> bool:
    """Whether a file of one of these names lies anywhere in the folders of fonts."""
    return any(not set(names).isdisjoint(files) for folder in folders for _, _, files in os.walk(folder))


@dataclass(frozen=True)
class SystemPackage:
    """Something of the system's: how to see that it is there, and Debian's names for it, the best first."""

    names: tuple[str, ...]
    purpose: str
    present: Callable[[], bool]


#: Files of fonts with Chinese, Japanese and Korean characters, any of which will do.
CJK_FILES = ("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc")

FFMPEG = SystemPackage(("ffmpeg",), "video and sound", lambda: shutil.which("ffmpeg") is not None)
FONTS = SystemPackage(("fonts-dejavu-core",), "drawn text", lambda: has_font(["DejaVuSans.ttf"]))
CJK_FONT = SystemPackage(
    ("fonts-wqy-microhei",), "drawn text in Chinese, Japanese and Korean", lambda: has_font(CJK_FILES)
)
ESPEAK = SystemPackage(("espeak-ng",), "the demo's spoken sentences", lambda: shutil.which("espeak-ng") is not None)
BUBBLEWRAP = SystemPackage(("bubblewrap",), "the executor's sandbox", lambda: shutil.which("bwrap") is not None)
JAVA = SystemPackage(
    ("openjdk-21-jre-headless", "openjdk-17-jre-headless", "default-jre-headless"),
    "Java 17 or later, which runs the S3 server of the tests",
    has_java,
)
MAVEN = SystemPackage(("maven",), "the jars of that server", lambda: shutil.which("mvn") is not None)


def root_command() -> list[str] | None:
    """What to put before a command that needs root: nothing, sudo that asks for no password, or None: not permitted."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    return None


def apt_install(packages: Iterable[SystemPackage], keep_open: Sequence[int]) -> str | None:
    """Install by apt-get. None when done, else why not, in a few words.

    `keep_open` are descriptors the children inherit: the set-up's lock outlives a killed parent as long as they run.
    """
    if shutil.which("apt-get") is None:
        return "there is no apt-get here"
    prefix = root_command()
    if prefix is None:
        return "that needs root, or sudo without a password"

    def apt(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
        return subprocess.run(
            [*command, "-o", "DPkg::Lock::Timeout=600", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=keep_open,
        )

    def install() -> subprocess.CompletedProcess[str]:
        return apt("install", "--no-install-recommends", *(_available(package.names) for package in packages))

    done = install()
    if done.returncode != 0:  # the package lists may be missing or old
        apt("update")
        done = install()
    if done.returncode == 0:
        return None
    return "apt-get said: " + (done.stderr.strip().splitlines() or ["nothing"])[-1]


def _available(names: Sequence[str]) -> str:
    """The first of these names that apt can install; the last where it knows none (yet)."""
    for name in names[:-1]:
        policy = subprocess.run(["apt-cache", "policy", name], capture_output=True, text=True, check=False)
        candidate = re.search(r"Candidate: (\S+)", policy.stdout)
        if candidate and candidate[1] != "(none)":
            return name
    return names[-1]
