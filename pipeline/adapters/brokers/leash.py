"""Run a command that must not outlive its starter: `python leash.py DIRECTORY COMMAND…`, with a pipe on standard input.

The starter holds the pipe's other end. When it closes, by the starter's will or by its death, even by kill -9, the
command is ended (SIGTERM, after `GRACE_SECONDS` SIGKILL) and, unless a byte came through the pipe before, DIRECTORY is
removed. When the command ends by itself, so does this with its exit code. Standard library only, run by path.

Not PR_SET_PDEATHSIG: that one fires when the starting *thread* ends, exists on Linux only, and cleans nothing up.
"""

import os
import shutil
import subprocess
import sys
import threading

GRACE_SECONDS = 15.0


def main(directory: str, command: list[str]) -> int:
    # the command inherits what the starter waits on to know that all of them have ended
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # noqa: S603 - the starter's own
    ended = threading.Event()

    def watch() -> None:
        keep = False
        while os.read(0, 16):  # empty once the other end is closed
            keep = True
        ended.set()
        child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = child.wait()
    if ended.is_set():
        watcher.join()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
