"""The way into every workload: a handoff in, a handoff out, one log line per event, errors as exit codes.

    python -m tidegate.<stage> --handoff in.json --out out.json

Exit codes are those of `tidegate.errors`; 70 is an error that nobody foresaw. Where TIDEGATE_TERMINATION_LOG names a
file (as Kubernetes does with its termination log), the reason of a failure is left there too, and so is the handoff of
a workload that succeeds: of a pod nothing else remains. With TIDEGATE_LOG=json each event is a JSON object instead of
text.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import ValidationError

from tidegate.errors import Permanent, Retryable, TidegateError
from tidegate.handoff import Handoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T", bound=Handoff)


def main(task: type[T], work: Callable[[T], Handoff | None], argv: Sequence[str] | None = None) -> int:
    """Read the handoff, do the work, write what it returns (if anything) and return the exit code."""
    parser = argparse.ArgumentParser(description=f"Reads a {task.__name__} as JSON and writes what it became.")
    parser.add_argument("--handoff", type=Path, required=True, help=f"JSON file of a {task.__name__}")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _stopped)
    try:
        result = work(_read(task, arguments.handoff))
        if result is not None:
            _write(arguments.out, result.to_json())
            _leave(result.to_json())
    except TidegateError as error:
        return _failed(error, error.exit_code)
    except Exception as error:  # the process's edge: what nobody foresaw is shown in full and counted as 70
        traceback.print_exc()
        return _failed(error, TidegateError.exit_code)
    log("done", out=arguments.out.name if result is not None else None)
    return 0


_always: dict[str, Any] = {}


def log_always(**fields: Any) -> None:
    """Have every event of this process from now on carry these fields, where events are JSON: rank, trace_id."""
    _always.update(fields)


def log(event: str, **fields: Any) -> None:
    """Print one event as one line: time in UTC, what happened, then name=value pairs; None is left out.

    With TIDEGATE_LOG=json the line is an object with the keys `at`, `event`, those of `log_always` and the fields'.
    """
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = {name: value for name, value in fields.items() if value is not None}
    if os.environ.get("TIDEGATE_LOG") == "json":
        plain = {name: str(value) if _is_odd(value) else value for name, value in {**_always, **said}.items()}
        print(json.dumps({"at": at, "event": event, **plain}, default=str, ensure_ascii=False), flush=True)
        return
    print(" ".join([at, event, *(f"{name}={_shown(value)}" for name, value in said.items())]), flush=True)


def _is_odd(value: Any) -> bool:
    """Whether a value is a number that JSON has no word for."""
    return isinstance(value, float) and not math.isfinite(value)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    text = str(value)
    return text if text and not set(text) & set(' "=\n') else json.dumps(text, ensure_ascii=False)


def _read(task: type[T], path: Path) -> T:
    try:
        return task.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise Permanent(f"{path} does not exist; write the {task.__name__} there") from error
    except ValidationError as error:
        raise Permanent(f"{path} is not a {task.__name__}; write one as tidegate.handoff tells: {error}") from error


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _failed(error: Exception, code: int) -> int:
    kind = type(error).__name__
    log("failed", error=kind, exit_code=code, message=str(error))
    _leave(f"{kind}: {error}")
    sys.stderr.flush()
    return code


def _leave(last_words: str) -> None:
    wanted = os.environ.get("TIDEGATE_TERMINATION_LOG")
    if wanted:
        Path(wanted).write_text(last_words, encoding="utf-8")


def _stopped(number: int, _frame: object) -> NoReturn:
    raise Retryable(f"stopped by {signal.Signals(number).name}; start it again to go on from its last checkpoint")
