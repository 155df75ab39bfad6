"""Locks of folders: held as long as any process with the open file lives, also after a SIGKILL of the others."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

ATTEMPTS = 20  # against a reader that tests the lock at the same moment
SECONDS_BETWEEN = 0.02


class FolderLock:
    """A file with an exclusive lock; children that inherit the file descriptor keep the lock, too.

    Args:
        path: of the file, whose folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    @property
    def file_descriptor(self) -> int:
        """Of the locked file, for `subprocess.Popen(pass_fds=...)`."""
        if self._file is None:
            raise ValueError(f"{self.path} is not locked")
        return self._file

    def acquire(self) -> bool:
        """Take the lock; False where another process has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        for _ in range(ATTEMPTS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(SECONDS_BETWEEN)
            else:
                self._file = file
                with contextlib.suppress(OSError):  # a full disk; the owner is only for messages
                    os.ftruncate(file, 0)
                    os.write(file, f"{os.getpid()} {os.uname().nodename}\n".encode())
                return True
        os.close(file)
        return False

    def release(self) -> None:
        """Close the file; children that inherited it keep the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file.

    Args:
        path: of the file, which may be missing.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no such file
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    else:
        return False
    finally:
        os.close(file)


def owner_of(path: Path) -> str:
    """The process that has taken a lock, for messages, e.g. "process 123 on host".

    Args:
        path: of the file.
    """
    try:
        process, host = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "another process"
    return f"process {process} on {host}"
