"""`tidegate quarantine`: which rows a contract put aside and why, and what a newer contract makes of them."""

from __future__ import annotations

import base64
import json as jsonlib
import sys
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tidegate.errors import DataError, SpecError
from tidegate.explained import explained

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from tidegate.contract import Contract
    from tidegate.handoff import Slice
    from tidegate.lake import Lake
    from tidegate.validate.held import Held

app = typer.Typer(
    help="List and show the rows that a contract put aside, and judge a slice again by today's contract.",
    no_args_is_help=True,
)
Delivery = Annotated[str, typer.Argument(help="The delivery.")]
Source = Annotated[str, typer.Argument(help="The source, as the delivery names it.")]
Window = Annotated[str, typer.Argument(help="The window: its id, as `list` prints it, or its start (2013-01-01).")]
Place = Annotated[
    str | None,
    typer.Option("--lake", envvar="TIDEGATE_LAKE", help="The lake's URL (default: the embedded stack's)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
_WIDTH = 160  # of a table that goes to a file or a pipe
_RAW = 300  # characters of a raw row in a table; --json has all of it


@app.command("list")
def listed(
    delivery: Annotated[str | None, typer.Argument(help="Only of this delivery.")] = None,
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only windows that end after this, UTC.")] = None,
    lake: Place = None,
    json: AsJson = False,
) -> None:
    """List all slices: rows, how many of them are in quarantine, and the reason of most."""
    from tidegate.validate.held import held

    with explained():
        moment = since.replace(tzinfo=since.tzinfo or UTC) if since else None
        found = held(_lake(lake), delivery, source, moment)
    if json:
        print(jsonlib.dumps([each.as_json() for each in found], indent=2))
    elif not found:
        _say("there is no such slice" if delivery or source or since else "there is no slice yet")
    else:
        _out().print(_table(found))


@app.command()
def show(
    delivery: Delivery,
    source: Source,
    window: Window,
    reason: Annotated[str | None, typer.Option(help="Only rows with this among their reasons.")] = None,
    limit: Annotated[int, typer.Option(help="So many rows.", min=1)] = 20,
    revision: Annotated[str | None, typer.Option(help="Of an older revision: the first digits of its digest.")] = None,
    lake: Place = None,
    json: AsJson = False,
) -> None:
    """Show a slice's quarantined rows: position, all reasons, column and value of the first of them, the raw row."""
    from tidegate.validate.held import one
    from tidegate.validate.quarantine import read_quarantine

    with explained():
        place = _lake(lake)
        found = one(place, delivery, source, window)
        manifest = _manifest(place, found, revision)
        path = place.local(manifest["key"], "quarantine.parquet", manifest["digest"])
        rows = list(islice(read_quarantine(path, reason), limit + 1))
        if reason is not None and not rows:
            have = ", ".join(sorted(manifest["reasons"])) or "none"
            raise DataError(f"no row of this slice is in quarantine for {reason!r}; first reasons there: {have}")
    more, rows = len(rows) > limit, rows[:limit]
    for row in rows:
        row["contract_version"] = row["contract_version"] or manifest.get("contract_version")
        row["contract_digest"] = row["contract_digest"] or manifest["contract_digest"]
    if json:
        print(jsonlib.dumps({"slice": found.as_json(), "rows": [_json_row(row) for row in rows]}, indent=2))
        return
    _say(_heading(found, manifest))
    if rows:
        _out().print(_rows(rows))
    if more:
        _say(f"these are the first {limit}; --limit N shows more, --json whole rows")


@app.command()
def replay(delivery: Delivery, source: Source, window: Window, lake: Place = None, json: AsJson = False) -> None:
    """Judge a slice's raw rows again by the contract as it is now; datasets take the new revision from then on.

    The revision before stays readable (`show --revision`). Nothing is read from the source. The same contract again
    changes nothing, and a replay that is broken off leaves everything as it was.
    """
    from tidegate.validate import validate
    from tidegate.validate.held import one, outcome

    with explained():
        place = _lake(lake)
        before = one(place, delivery, source, window)
        contract = _contract(before.slice)
        with Console(stderr=True).status(f"judging {before.slice.rows:,} rows by {contract.name} {contract.version}"):
            validate(before.slice, contract, place)
        after = one(place, delivery, source, window)
    sentence = outcome(before, after)
    if json:
        changed = before.in_use != after.in_use
        data = {"slice": after.as_json(), "published": changed, "changed": (after.in_use or {}).get("changed")}
        print(jsonlib.dumps({**data, "sentence": sentence}, indent=2))
        return
    _say(f"{delivery}/{source} {after.slice.window}: {sentence}")


def _lake(url: str | None) -> Lake:
    from tidegate.lake import Lake
    from tidegate.stack.config import StackConfig

    place = url or f"file://{StackConfig.load().paths.lake}"
    try:
        return Lake(place)
    except (ValueError, ImportError) as error:
        raise SpecError(f"{place} is no lake's URL: {error}; write one such as file:///var/lake") from error


def _contract(slice: Slice) -> Contract:
    """Return the contract that the delivery names for a source now."""
    from tidegate.contract import load_contract
    from tidegate.delivery import delivery_named

    sources = delivery_named(slice.delivery).sources
    if slice.source not in sources:
        have = ", ".join(sources)
        raise DataError(f"delivery {slice.delivery} has no source {slice.source!r} any more; it has: {have}")
    return load_contract(sources[slice.source].contract)


def _manifest(place: Lake, found: Held, revision: str | None) -> dict[str, Any]:
    from tidegate import keys

    slice = found.slice
    if revision is not None:
        return place.require(keys.validated(slice.delivery, slice.source, slice.window), revision)
    if found.judged is None:
        raise DataError(
            f"{slice.delivery}/{slice.source} {slice.window} was read and not validated yet; run "
            f"`tidegate quarantine replay {slice.delivery} {slice.source} {slice.window.id}`"
        )
    return dict(found.judged)


def _heading(found: Held, manifest: dict[str, Any]) -> str:
    from tidegate.validate.reasons import printable

    slice, all_rows = found.slice, manifest["clean"] + manifest["quarantined"]
    by = f"{manifest.get('contract', slice.contract)} {manifest.get('contract_version', '')}".strip()
    share = manifest["quarantined"] / all_rows if all_rows else 0.0
    said = f"{slice.delivery}/{slice.source} {slice.window}, by {by} (digest {manifest['contract_digest'][:12]}): "
    said += f"{manifest['quarantined']:,} of {all_rows:,} rows in quarantine ({share:.2%})"
    if manifest.get("stops"):
        said += "; refused as a whole: " + printable("; ".join(manifest["stops"]))
        said += "; datasets take an older revision" if found.in_use else "; datasets have no revision of it"
    elif found.state == "not validated":
        said += "; the slice was read anew since, and is not validated yet"
    return said


def _table(found: Iterable[Held]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from tidegate.validate.reasons import printable

    table = Table("slice", "window", "rows", "quarantined", "share", "most of them for", "contract", "state")
    for place in (2, 3, 4):
        table.columns[place].justify = "right"
    for each in found:
        reason = f"{each.reasons[0][0]} ({each.reasons[0][1]:,})" if each.reasons else "-"
        cells = (
            f"{each.slice.delivery}/{each.slice.source}", each.slice.window.id, f"{each.slice.rows:,}",
            f"{each.quarantined:,}", f"{each.share:.2%}", reason,
            f"{each.contract} {each.contract_version or '-'}", each.state,
        )  # fmt: skip
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in cells))
    return table


def _rows(rows: Iterable[dict[str, Any]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from tidegate.validate.reasons import printable

    table = Table("position", "reasons", "column", "value", "raw", show_lines=True)
    for row in rows:
        data: bytes | None = row["bytes"]
        text = (row["row"] or "")[: _RAW + 1] if data is None else data[: 4 * _RAW].decode("utf-8", "backslashreplace")
        raw = printable(text)
        raw = raw if len(raw) <= _RAW else raw[: _RAW - 3] + "..."
        cells = (row["position"], ", ".join(row["reasons"]), row["column"], row["value"])
        shown = [*(printable("-" if cell is None else cell) for cell in cells), raw]
        table.add_row(*(Text(cell, overflow="fold") for cell in shown))
    return table


def _json_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as JSON data: the bytes as base64, and as a text where they are UTF-8."""
    data = row["bytes"]
    if data is None:
        return row
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    return {**row, "bytes": base64.b64encode(data).decode(), "text": text}


def _out() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def _say(sentence: str) -> None:
    Console().print(sentence, highlight=False, soft_wrap=True, markup=False)
