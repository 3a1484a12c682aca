"""Where the embedded stack lives: its folders, ports, addresses and passwords, chosen once and remembered."""

from __future__ import annotations

import base64
import json
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.errors import SetupError
from tidegate.localfiles import locked, replace_text
from tidegate.stack import ports

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]

PORTS = (
    "postgres",
    "kafka",
    "kafka-controller",
    "hdfs-namenode",
    "hdfs-namenode-http",
    "hdfs-datanode",
    "hdfs-datanode-http",
    "hdfs-datanode-ipc",
    "envoy",
    "envoy-admin",
    "prometheus",
    "alertmanager",
    "mlflow",
    "airflow",
    "airflow-worker-logs",
    "airflow-trigger-logs",
    "guard",
    "relay",
    "quality",
)
SECRETS = ("supervisor", "postgres", "airflow-admin", "airflow-jwt", "airflow-api", "guard", "relay", "quality")
DATABASES = ("airflow", "mlflow", "flights", "tidegate")

_LONGEST_SOCKET = 107  # bytes of a unix socket's path, the kernel's limit


@dataclass(frozen=True)
class Paths:
    """The folders and files of one installation."""

    root: Path
    """The project: holds dags/, plugins/, schemas/, deploy/, .venv and .envs."""
    var: Path
    """All state of this installation."""
    runtime: Path
    """Sockets and pid files: short, mode 0700, made anew after a reboot."""

    @property
    def logs(self) -> Path:
        """One log file per service."""
        return self.var / "logs"

    @property
    def conf_dir(self) -> Path:
        """Supervisor's conf.d: one file per supervised program, mode 0700."""
        return self.var / "supervisor" / "conf.d"

    @property
    def socket(self) -> Path:
        """Supervisor's control socket."""
        return self.runtime / "supervisor.sock"

    @property
    def pidfile(self) -> Path:
        """Supervisor's pid file."""
        return self.var / "supervisor" / "supervisord.pid"

    @property
    def xds(self) -> Path:
        """The folder that Envoy watches: rds.yaml and cds.yaml."""
        return self.var / "envoy" / "xds"

    @property
    def triton_targets(self) -> Path:
        """Prometheus reads one *.json of targets per serving version here."""
        return self.var / "prometheus" / "triton"

    @property
    def login(self) -> Path:
        """User and password of Airflow's UI as JSON, mode 0600."""
        return self.var / "airflow" / "passwords.json"

    @property
    def guard_token(self) -> Path:
        """The bearer token of the guard, mode 0600."""
        return self.var / "guard" / "token"

    @property
    def relay_token(self) -> Path:
        """The bearer token of the relay, mode 0600."""
        return self.var / "relay" / "token"

    @property
    def quality_token(self) -> Path:
        """The bearer token of the process that counts what versions say, mode 0600."""
        return self.var / "quality" / "token"

    @property
    def rules(self) -> Path:
        """Prometheus' rule files made from the deliveries, one each."""
        return self.var / "prometheus" / "rules"

    @property
    def lake(self) -> Path:
        """Slices, datasets and bundles."""
        return self.var / "lake"

    @property
    def serving(self) -> Path:
        """Triton's model folders, one per serving version."""
        return self.var / "serving"

    @property
    def tfserving(self) -> Path:
        """Names the TensorFlow Serving processes that somebody else runs, as `tidegate.clients.tfserving.Pool`."""
        return self.var / "tfserving.json"

    @property
    def python_serve(self) -> Path:
        """The interpreter of the serving environment."""
        return self.root / ".envs" / "serve" / "bin" / "python"

    @property
    def python_train(self) -> Path:
        """The interpreter of the training environment."""
        return self.root / ".envs" / "train" / "bin" / "python"

    @property
    def python_validate(self) -> Path:
        """The interpreter of the environment that watches slices."""
        return self.root / ".envs" / "validate" / "bin" / "python"


@dataclass(frozen=True)
class StackConfig:
    """One installation of the embedded stack, as remembered in `stack.json` and `secrets.json`."""

    paths: Paths
    installation: str
    """Eight hexadecimal digits: marks the processes and the run-time folder of this installation."""
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = field(repr=False)

    @classmethod
    def load(cls, var: Path | None = None, *, new_ports: bool = False) -> StackConfig:
        """Read this installation's settings, choosing and remembering what is missing.

        Args:
            var: the state folder; by default $TIDEGATE_VAR, else `var` in the project's root.
            new_ports: forget the remembered ports and choose anew (only while the stack is down).

        Raises:
            SetupError: no free port, or the remembered run-time folder cannot be used.
        """
        folder = (var or Path(os.environ.get("TIDEGATE_VAR") or ROOT / "var")).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            state = _read(folder / "stack.json")
            installation = str(state.get("installation") or secrets.token_hex(4))
            known = {} if new_ports else {k: int(v) for k, v in dict(state.get("ports") or {}).items()}
            chosen = known | ports.choose([name for name in PORTS if name not in known], known.values())
            runtime = str(state.get("runtime") or _short_folder(installation))
            passwords = _read(folder / "secrets.json")
            fresh = {name: secrets.token_urlsafe(48) for name in SECRETS} | {
                "airflow-fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
            }
            kept = {name: str(passwords.get(name) or value) for name, value in fresh.items()}
            if kept != passwords:
                write_private(folder / "secrets.json", json.dumps(kept, indent=2))
            new_state = {"installation": installation, "runtime": runtime, "ports": chosen}
            if new_state != state:
                replace_text(folder / "stack.json", json.dumps(new_state, indent=2), 0o644)
        return cls(Paths(ROOT, folder, Path(runtime)), installation, chosen, kept)

    def url(self, service: str) -> str:
        """The HTTP address of a service, without a slash at the end.

        Args:
            service: airflow, mlflow, prometheus, alertmanager, guard, relay, quality, envoy (the listener that serves
                predictions), envoy-admin, hdfs-namenode-http.
        """
        return f"http://127.0.0.1:{self.ports[service]}"

    def postgres_dsn(self, database: str, driver: str = "") -> str:
        """The address of one of the databases airflow, mlflow, flights, tidegate; it holds the password.

        Args:
            database: the database's name.
            driver: an SQLAlchemy driver such as psycopg2 or asyncpg; none gives a plain libpq address.
        """
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        password = self.secrets["postgres"]
        return f"{scheme}://postgres:{password}@127.0.0.1:{self.ports['postgres']}/{database}"

    @property
    def tfserving(self) -> dict[str, Any] | None:
        """The slots of TensorFlow Serving as written in `paths.tfserving`; None without that file: nobody runs any.

        Their folder may be given relative to the project's.

        Raises:
            SetupError: the file is not JSON.
        """
        found = _read(self.paths.tfserving)
        if "folder" in found:
            found["folder"] = str(self.paths.root / str(found["folder"]))
        return found or None

    @property
    def kafka(self) -> str:
        """Kafka's bootstrap server."""
        return f"127.0.0.1:{self.ports['kafka']}"

    @property
    def hdfs(self) -> str:
        """The NameNode's address."""
        return f"hdfs://127.0.0.1:{self.ports['hdfs-namenode']}"

    @property
    def airflow_login(self) -> tuple[str, str]:
        """User and password of Airflow's UI and REST API."""
        return "admin", self.secrets["airflow-admin"]


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, complete or not at all."""
    replace_text(path, text, 0o600)


def write_public(path: Path, text: str) -> None:
    """Write a file that others may read, complete or not at all."""
    replace_text(path, text, 0o644)


def make_runtime(folder: Path) -> None:
    """Make the run-time folder again if a reboot or a cleaner of /tmp took it away.

    Raises:
        SetupError: the folder belongs to another user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise SetupError(
            f"run-time folder {folder} belongs to user {folder.stat().st_uid}, not {os.geteuid()}. "
            "Remedy: remove it, or use another state folder: export TIDEGATE_VAR=..."
        )
    folder.chmod(0o700)


def _short_folder(installation: str) -> str:
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108  # 0700, owner checked
        if base and os.access(base, os.W_OK):
            folder = f"{base}/tidegate-{installation}"
            if len(f"{folder}/supervisor.sock.12345678".encode()) <= _LONGEST_SOCKET:
                return folder
    raise SetupError("no writable folder with a short path for sockets. Remedy: export TMPDIR=/tmp")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise SetupError(
            f"{path} is not JSON: {error}. Remedy: restore it from a copy, or remove {path.parent}"
        ) from error
    return dict(data)
