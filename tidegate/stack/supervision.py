"""Adds, removes and watches supervised programs in a running supervisord."""

from __future__ import annotations

import shlex
import xmlrpc.client
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from tidegate.errors import SetupError, Unavailable
from tidegate.localfiles import locked, replace_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXEC = '. "$0" && exec "$@"'  # reads the environment file, then becomes the program: same pid, any quoting


@dataclass(frozen=True)
class Program:
    """One process that supervisord keeps alive."""

    name: str
    """Letters, digits, dots, dashes and underscores."""
    command: tuple[str, ...]
    directory: Path
    """The working folder."""
    log_file: Path
    """Standard output and error, rotated at 20 MB."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to supervisord's own environment; may hold secrets (kept in a file of mode 0600)."""
    autostart: bool = True
    """Start with supervisord itself, as after `tidegate down` and `tidegate up`."""
    stop_signal: str = "TERM"
    stop_wait_s: int = 10
    """Seconds from the stop signal to SIGKILL."""
    nice: int = 0
    """Niceness: above zero yields the CPU to others."""

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "._-" for c in self.name):
            raise SetupError(
                f"program name {self.name!r} is not allowed. Remedy: use only letters, digits, dot, dash, underscore"
            )


@dataclass(frozen=True)
class State:
    """What supervisord knows of one program."""

    name: str
    state: str
    """STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN."""
    pid: int
    """Process id; 0 while it does not run."""
    started: int
    """Unix time of the last start, in seconds; 0 if never started."""
    problem: str
    """Why it does not run; empty if it does."""

    @property
    def alive(self) -> bool:
        """Whether a process exists or is about to."""
        return self.state in {"STARTING", "RUNNING", "BACKOFF", "STOPPING"}


class Supervision:
    """The control of one supervisord through its unix socket.

    Every method raises Unavailable if no supervisord answers at the socket.
    """

    def __init__(self, socket: Path, user: str, password: str, conf_dir: Path):
        self.socket = socket
        self.conf_dir = conf_dir
        self._user = user
        self._password = password

    def add(self, program: Program) -> None:
        """Have a program supervised and started; does nothing if it already runs just so.

        A program of the same name with another definition is stopped and replaced.
        """
        with locked(self.conf_dir / ".lock"):
            changed = self._write(program)
            known = self.states()
            if program.name in known and changed:
                self._take_out(program.name)
            if changed or program.name not in known:
                self._call("reloadConfig")
                self._call("addProcessGroup", program.name, allow=(Faults.ALREADY_ADDED,))
            self._call("startProcess", program.name, False, allow=(Faults.ALREADY_STARTED,))

    def remove(self, name: str) -> None:
        """Stop a program and forget it; does nothing if there is none of that name."""
        with locked(self.conf_dir / ".lock"):
            (self.conf_dir / f"{name}.conf").unlink(missing_ok=True)
            (self.conf_dir / f"{name}.env").unlink(missing_ok=True)
            if name in self.states():
                self._take_out(name)
                self._call("reloadConfig")

    def states(self) -> dict[str, State]:
        """The state of every program by name."""
        return {
            str(info["name"]): State(
                name=str(info["name"]),
                state=str(info["statename"]),
                pid=int(info["pid"]),
                started=int(info["start"]),
                problem=str(info["spawnerr"]),
            )
            for info in self._call("getAllProcessInfo")
        }

    def restart(self, name: str) -> None:
        """Stop a program, wait until it has ended, and start it again.

        Raises:
            SetupError: no program has that name.
        """
        if name not in self.states():
            raise SetupError(f"no supervised program {name!r}. Remedy: tidegate status shows the names")
        self._call("stopProcess", name, allow=(Faults.NOT_RUNNING,))
        self._call("startProcess", name, False, allow=(Faults.ALREADY_STARTED,))

    def stop(self, name: str, *, wait: bool = True) -> None:
        """Stop a program but keep its definition; does nothing if it does not run."""
        self._call("stopProcess", name, wait, allow=(Faults.NOT_RUNNING, Faults.BAD_NAME))

    def shut_down(self) -> None:
        """Ask supervisord to stop what still runs and to end."""
        self._call("shutdown", allow=(Faults.SHUTDOWN_STATE,))

    def answers(self) -> bool:
        """Whether a supervisord answers at the socket."""
        try:
            self._call("getSupervisorVersion")
        except Unavailable:
            return False
        return True

    def _take_out(self, name: str) -> None:
        self._call("stopProcess", name, allow=(Faults.NOT_RUNNING,))
        self._call("removeProcessGroup", name, allow=(Faults.BAD_NAME,))

    def _write(self, program: Program) -> bool:
        env_file = self.conf_dir / f"{program.name}.env"
        env = _write_changed(env_file, render_env(program))
        conf = _write_changed(self.conf_dir / f"{program.name}.conf", render(program, env_file))
        return env or conf

    def _call(self, method: str, *args: object, allow: tuple[int, ...] = ()) -> Any:
        transport = SupervisorTransport(self._user, self._password, f"unix://{self.socket}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*args)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in allow:
                return None
            raise SetupError(
                f"supervisord refused {method}{args}: {fault.faultString}. Remedy: see logs/supervisord.log"
            ) from fault
        except (OSError, xmlrpc.client.ProtocolError) as error:
            raise Unavailable(
                f"no supervisord answers at {self.socket} ({type(error).__name__}). Remedy: tidegate up"
            ) from error


def render(program: Program, env_file: Path) -> str:
    """A program's section for supervisord, with what supervisord would expand escaped."""
    nice = ("nice", "-n", str(program.nice)) if program.nice else ()
    command = shlex.join(("/bin/sh", "-c", _EXEC, str(env_file), *nice, *program.command))
    settings = {
        "command": command,
        "directory": str(program.directory),
        "autostart": str(program.autostart).lower(),
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "5",
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(program.stop_wait_s),
        "stopasgroup": "false",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": str(program.log_file),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "1",
    }
    lines = [f"{key}={_escape(key, value)}" for key, value in settings.items()]
    return "\n".join([f"[program:{program.name}]", *lines, ""])


def render_env(program: Program) -> str:
    """A shell file that exports a program's environment."""
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in sorted(program.env.items()))


def _escape(key: str, value: str) -> str:
    if "\n" in value or " ;" in value:
        raise SetupError(
            f"supervisord cannot hold a line break or ' ;' in {key}: {value!r}. Remedy: pass it through the environment"
        )
    return value.replace("%", "%%")


def _write_changed(path: Path, text: str) -> bool:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    replace_text(path, text, 0o600)
    return True
