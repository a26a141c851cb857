"""A PostgreSQL server of Debian's package in a folder that is gone afterwards, for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MISSING = "no PostgreSQL server on this machine, e.g.: apt-get install postgresql"


def postgres_programs() -> Path | None:
    """The folder of `initdb` and `postgres`, which Debian keeps out of the path; None where there is none."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which("initdb")
    return folders[-1] if folders else Path(found).parent if found else None


@contextmanager
def running_postgres() -> Iterator[str]:
    """The address of an empty database, reached by a socket in a folder: no port is opened.

    Raises:
        FileNotFoundError: there is no server on this machine.
    """
    programs = postgres_programs()
    if programs is None:
        raise FileNotFoundError(MISSING)
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)

        def run(program: str, *arguments: str) -> None:
            subprocess.run(
                [programs / program, *arguments], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL
            )

        data = str(folder / "data")
        run("initdb", "-D", data, "-A", "trust", "-U", "study", "-E", "UTF8", "--no-locale", "--no-sync")
        # Its own folder for the socket, whose path must be short.
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", f"-c listen_addresses='' -k {folder}", "start")
        try:
            yield f"postgresql://study@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
