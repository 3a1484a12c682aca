"""What the text of a SELECT tells before it runs: answers that change by themselves, features made of the label."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tidegate.yamlfile import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidegate.dataset.engine import Engine
    from tidegate.delivery import DatasetSpec

Reference = tuple[str, ...]
_UNSTEADY = (
    "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
)
_STEADY = {"error", "current_schema", "current_database"}
_NOW = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}


def problems(engine: Engine, sql: Path, statement: str, spec: DatasetSpec) -> list[Problem]:
    """Return what is wrong with a SELECT as its text stands, each problem at its line."""
    root = _parsed(engine, statement)
    unsteady = {str(name) for (name,) in engine.connection.execute(_UNSTEADY).fetchall()} - _STEADY | _NOW
    found = [*_unsteady(root, sql, statement, unsteady), *_of_the_label(root, sql, statement, spec)]
    return sorted(dict.fromkeys(found), key=lambda problem: problem.line)


def lines(engine: Engine, statement: str) -> dict[str, int]:
    """Return the line at which each column of the outermost SELECT stands, by its name, where it has one."""
    return {_name(item): _line(item, statement) for item in _parsed(engine, statement).get("select_list", [])}


def _parsed(engine: Engine, statement: str) -> dict[str, Any]:
    """Return the outermost node of a SELECT; an empty one where DuckDB runs it, but cannot say what it is made of."""
    parsed = json.loads(engine.one("SELECT json_serialize_sql(?)", [statement])[0])
    return {} if parsed["error"] else dict(parsed["statements"][0]["node"])


def _unsteady(root: Any, sql: Path, statement: str, names: set[str]) -> Iterator[Problem]:
    for node in _nodes(root):
        at, name = _line(node, statement), _asked(node)
        if name in names:
            message = "it answers differently each time, so the dataset could not be built twice alike"
            yield Problem(
                str(sql), at, "(sql)", name, message, "take it out; the rows' own times say when they happened"
            )
        if node.get("sample"):
            message = "a sample differs each time, so the dataset could not be built twice alike"
            yield Problem(
                str(sql), at, "(sql)", "a sample", message, "keep rows by a hash of their key: hash(id) % 10 = 0"
            )


def _asked(node: dict[str, Any]) -> str:
    """Return the function that a node asks, those that SQL writes like columns among them; else nothing."""
    if node.get("class") == "FUNCTION":
        return str(node.get("function_name")).lower()
    plain = node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1
    return str(node["column_names"][0]).lower() if plain and str(node["column_names"][0]).lower() in _NOW else ""


def _of_the_label(root: Any, sql: Path, statement: str, spec: DatasetSpec) -> Iterator[Problem]:
    """Yield the features that read a column which the label reads; only the outermost SELECT is looked at."""
    chosen = {_name(item).lower(): item for item in root.get("select_list", [])}
    label = spec.label.lower()
    if label not in chosen:
        return
    made_of = _references(chosen[label], chosen, {label})
    for key, item in chosen.items():
        name = _name(item)
        if key in (label, spec.event_time.lower(), "") or name in spec.leakage.allow:
            continue
        for reference in sorted(_references(item, chosen, {key})):
            if any(_same(reference, other) for other in made_of):
                column = ".".join(reference)
                message = f"feature {name!r} is made of {column}, and so is the label {spec.label!r}"
                remedy = f"take it out; if it is known at the event's time, write dataset.leakage.allow: [{name}]"
                yield Problem(str(sql), _line(item, statement), "(sql)", column, message, remedy)
                break


def _references(node: Any, chosen: dict[str, Any], seen: set[str]) -> set[Reference]:
    """Return the columns that an expression reads, those of other items that it names by their alias among them."""
    found: set[Reference] = set()
    for each in _nodes(node):
        if each.get("class") != "COLUMN_REF":
            continue
        names = tuple(str(name).lower() for name in each["column_names"])
        other = chosen.get(names[0]) if len(names) == 1 and names[0] not in seen else None
        found |= _references(other, chosen, seen | {names[0]}) if other is not None and other.get("alias") else {names}
    return found


def _same(one: Reference, other: Reference) -> bool:
    if one[-1] != other[-1]:
        return False
    return len(one) == 1 or len(other) == 1 or one[-2] == other[-2]


def _name(item: Any) -> str:
    if item.get("alias"):
        return str(item["alias"])
    return str(item["column_names"][-1]) if item.get("class") == "COLUMN_REF" else ""


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _nodes(each)


def _line(node: dict[str, Any], statement: str) -> int:
    places = [each["query_location"] for each in _nodes(node) if isinstance(each.get("query_location"), int)]
    sane = [place for place in places if 0 <= place <= len(statement.encode())]
    return statement.encode()[: min(sane)].count(b"\n") + 1 if sane else 1
