"""One run at a time in a folder: the lock is the kernel's, so a killed run leaves none behind.

Two runs in the same working folder would write into each other's checkpoints. The second one is refused with the name
of the first. Nothing has to be cleaned up after a kill: a lock file that nobody holds is taken over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatbench.core.errors import ChatbenchError

_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Inside, no other process on this machine (on NFS: on any) enters for the same folder.

    Some network file systems know no locks; there the run goes on without one.

    Raises:
        ChatbenchError: another process is inside.
    """
    path = folder.with_name(folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _opened_and_locked(path)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is another file now
        os.close(descriptor)


def _opened_and_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                return descriptor
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise ChatbenchError(
                f"{path.with_suffix('')}: {holder} is training there now",
                expected="one run at a time in a folder",
                fix="wait for it or stop it; the processes of one run are started by accelerate launch or torchrun",
            ) from error
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)  # its last holder removed it between opening and locking
