"""`tidegate validate`: files against a contract, on a laptop, with a table of reasons."""

from __future__ import annotations

import json as jsonlib
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from tidegate.explained import explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.contract import Contract
    from tidegate.validate.stream import Outcome
    from tidegate.validate.verdict import Complaint

CLEAN, QUARANTINED, REFUSED = 0, 1, 2
USAGE = 64  # EX_USAGE of sysexits.h; click's own 2 would read as a refused slice


_UsageError: Any = typer.BadParameter.__base__  # click's own, or the copy that typer carries


class Command(TyperCommand):
    """A command whose usage errors leave with EX_USAGE, because its exit code 2 has a meaning."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the command line."""
        try:
            return super().make_context(*args, **kwargs)
        except _UsageError as error:
            vars(error)["exit_code"] = USAGE
            raise


def validate(
    contract: Annotated[str, typer.Argument(help="A contract's file, or the name of one in schemas/contracts.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Parquet, CSV, JSON lines, Avro or TFRecord; all but Parquet and Avro also .gz or .zst.",
            exists=True,
            dir_okay=False,
        ),
    ],
    clean: Annotated[
        Path | None, typer.Option(help="Write conforming rows here, cast: .parquet, .csv or .jsonl.")
    ] = None,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write the others here, with reasons, position and raw bytes.")
    ] = None,
    as_of: Annotated[
        datetime | None, typer.Option(help="When the newest row should be fresh, UTC (default: now).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Judge every row of files by a contract, and say which are wrong and why. All files together are one slice.

    Exit code: 0 all rows are clean, 1 some are quarantined, 2 the slice is refused as a whole; 64 the command line is
    wrong, 65 the contract has mistakes or a file cannot be read (empty, truncated, without a column).
    """
    from tidegate.contract.odcs import located, read_contract

    with explained():
        rules = read_contract(located(contract))
        moment = as_of.replace(tzinfo=as_of.tzinfo or UTC) if as_of else datetime.now(UTC)
        report = check_files(rules, files, clean, quarantine, moment.timestamp())
    if json:
        print(jsonlib.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(report, Console())
    raise typer.Exit({"clean": CLEAN, "quarantined": QUARANTINED, "refused": REFUSED}[report["verdict"]])


def check_files(
    contract: Contract, files: list[Path], clean: Path | None, quarantine: Path | None, as_of: float
) -> dict[str, Any]:
    """Judge files as one slice and return the report; rows are written where asked, once all of them are judged.

    The clean rows of a refused slice are not written.

    Raises:
        DataError: a file cannot be read, or a place cannot be written.
    """
    from tidegate.contract.arrow import clean_schema
    from tidegate.validate import stream, verdict
    from tidegate.validate.quarantine import QUARANTINE_SCHEMA
    from tidegate.validate.sinks import Aside

    began = time.perf_counter()
    with ExitStack() as stack:
        places: list[Aside] = []
        sinks: list[stream.Sink] = []
        for place, schema in ((clean, clean_schema(contract)), (quarantine, QUARANTINE_SCHEMA)):
            aside = stack.enter_context(Aside(place, schema)) if place else None
            places += [aside] if aside else []
            sinks.append(aside.sink if aside else stream.Nowhere())
        outcome = stream.run(lambda: _rows(files, contract), contract, sinks[0], sinks[1])
        found = verdict.complaints(outcome, contract, as_of)
        for aside in places:
            if not (verdict.refused(found) and aside is places[0] and clean):
                aside.keep()
    return _report(contract, files, outcome, found, time.perf_counter() - began)


def _rows(files: list[Path], contract: Contract) -> Iterator[Any]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from tidegate.files import read_file

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum(path.stat().st_size for path in files)
        task = progress.add_task("reading", total=total)
        for path in files:
            progress.update(task, description=path.name)
            yield from read_file(path, contract, lambda read: progress.advance(task, read))


def _report(
    contract: Contract, files: list[Path], outcome: Outcome, found: list[Complaint], seconds: float
) -> dict[str, Any]:
    from tidegate.validate.verdict import refused

    verdict = "refused" if refused(found) else "quarantined" if outcome.quarantined else "clean"
    return {
        "contract": contract.name,
        "version": contract.version,
        "files": [str(path) for path in files],
        "verdict": verdict,
        "rows": outcome.rows,
        "clean": outcome.clean,
        "quarantined": outcome.quarantined,
        "seconds": round(seconds, 3),
        "reasons": [
            {
                "reason": reason, "severity": each.severity, "rows": each.rows, "position": each.position,
                "value": each.value,
            }
            for reason, each in sorted(outcome.findings.items(), key=lambda item: -item[1].rows)
        ],
        "slice": [{"rule": each.rule, "severity": each.severity, "message": each.message} for each in found],
    }  # fmt: skip


def show(report: dict[str, Any], out: Console) -> None:
    """Print the report as people read it."""
    from rich.table import Table
    from rich.text import Text

    if report["reasons"]:
        table = Table("reason", "rows", "what happens", "first at", "value")
        table.columns[1].justify = "right"
        for each in report["reasons"]:
            cells = (each["reason"], f"{each['rows']:,}", each["severity"], each["position"], each["value"])
            table.add_row(*(Text(cell, overflow="fold") for cell in cells))
        out.print(table)
    for each in report["slice"]:
        word = "refused" if each["severity"] == "stop" else "warning"
        out.print(Text(f"{word}: {each['message']}"), soft_wrap=True)
    rate = report["rows"] / report["seconds"] if report["seconds"] else 0.0
    out.print(
        f"{report['contract']} {report['version']}: {report['rows']:,} rows, {report['clean']:,} clean, "
        f"{report['quarantined']:,} quarantined: {report['verdict']} ({report['seconds']:.1f} s, {rate:,.0f} rows/s)",
        highlight=False,
        soft_wrap=True,
    )
