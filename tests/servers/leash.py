"""Run a server for as long as the process that asked for it lives: a script, started by `tests.servers.leashed`.

    leash.py LOG FOLDER SIGNAL UID GID COMMAND...

It prints the server's process id, then watches. When its standard input ends without a word, whoever held the other
end is gone: the server gets SIGNAL, and FOLDER is removed. After the word "keep" only the leash ends with the server.
When the leash itself is killed, the kernel sends SIGNAL to the server. (A server could watch its parent by itself, but
the kernel's parent-death signal goes by the *thread* that started it, and tests start servers from worker threads.)
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main() -> int:
    log, folder, number, uid, gid = sys.argv[1:6]
    death = signal.Signals(int(number))
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is for the tests, which then stop us

    def tie() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(int(gid))
            os.setuid(int(uid))  # before the next line: a change of user forgets the signal
        libc.prctl(PR_SET_PDEATHSIG, int(death))
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with Path(log).open("ab") as out:
        server = subprocess.Popen(
            sys.argv[6:],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=tie,
            start_new_session=True,
        )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    ended = os.pidfd_open(server.pid)
    ready, _, _ = select.select([ended, 0], [], [])
    if ended not in ready and os.read(0, 16) == b"":
        server.send_signal(death)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return server.wait()


if __name__ == "__main__":
    sys.exit(abs(main()))
