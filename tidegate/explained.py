"""Errors of ours at the command line: their words and their exit code, without a trace."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from tidegate.errors import TidegateError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error of ours into its message and exit code; anything else is a fault and keeps its trace."""
    try:
        yield
    except TidegateError as error:
        Console(stderr=True).print("[bold red]error:[/]", end=" ")
        print(error, file=sys.stderr)  # as it is: brackets in it are no style
        raise typer.Exit(error.exit_code) from error
