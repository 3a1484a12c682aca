"""Rules between the columns of one row, written as ODCS writes them and read as one DuckDB expression.

`SELECT COUNT(*) FROM ${object} WHERE <expression>` with `mustBe: 0`: a row for which the expression is true breaks
the rule, one for which it is NULL does not. Only functions that answer alike every time are taken, no subqueries, no
aggregates, and the connection sees neither files nor network. A row at which the expression fails (a cast, an
overflow) breaks the rule too.
"""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tidegate.contract.model import Contract

_ROWS = "_rows"
_OBJECT = re.compile(r"\$?\{(?:object|table|model|schema)\}")
_BARRED = {"getenv", "getvariable", "current_setting", "currval", "nextval", "txid_current", "version", "hash"}
SHAPE = "write: SELECT COUNT(*) FROM ${object} WHERE <what a wrong row looks like>, with mustBe: 0"


def read_rule(query: str, table: str, columns: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Return the expression of a rule's query, and the columns that it reads.

    Raises:
        ValueError: the query is of another shape, or reads what is no column, or could answer differently next time.
    """
    node = _select(query)
    source = node["from_table"]
    if source.get("type") != "BASE_TABLE" or source.get("table_name") not in (_ROWS, table):
        raise ValueError(f"it reads something other than ${{object}} or {table}")
    if not _counts_rows(node):
        raise ValueError("it is no SELECT COUNT(*) FROM ... WHERE ...")
    condition = node["where_clause"]
    names = tuple(dict.fromkeys(_checked(condition, set(columns))))
    return _text(node, condition), names


def _select(query: str) -> dict[str, Any]:
    text = _OBJECT.sub(_ROWS, query)
    found = json.loads(_connection().execute("SELECT json_serialize_sql(?)", [text]).fetchall()[0][0])
    if found["error"]:
        raise ValueError(f"no SELECT that DuckDB can read: {found.get('error_message', 'no SELECT')}")
    if len(found["statements"]) != 1 or found["statements"][0]["node"].get("type") != "SELECT_NODE":
        raise ValueError("it is not exactly one SELECT")
    node: dict[str, Any] = found["statements"][0]["node"]
    return node


def _counts_rows(node: dict[str, Any]) -> bool:
    chosen = node["select_list"]
    plain = not (node["group_expressions"] or node["having"] or node["qualify"] or node["sample"] or node["modifiers"])
    counted = len(chosen) == 1 and chosen[0].get("function_name") == "count_star"
    return plain and counted and not chosen[0]["filter"] and node["where_clause"] is not None


def _checked(part: Any, columns: set[str]) -> Iterator[str]:
    """Yield the columns an expression reads; refuse what is not a plain expression over them."""
    if isinstance(part, list):
        for each in part:
            yield from _checked(each, columns)
        return
    if not isinstance(part, dict):
        return
    kind = part.get("class")
    if kind in ("SUBQUERY", "WINDOW", "PARAMETER", "STAR", "DEFAULT", "LAMBDA"):
        raise ValueError(f"a {str(kind).lower()} is no expression over one row")
    if kind == "FUNCTION":
        _steady(part["function_name"])
    if kind == "COLUMN_REF":
        name = part["column_names"][0]
        if name not in columns:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(sorted(columns))}")
        yield name
    for each in part.values():
        yield from _checked(each, columns)


def _steady(name: str) -> None:
    known = _functions().get(name.lower())
    if known is None or known != {("scalar", "CONSISTENT")} or name.lower() in _BARRED:
        raise ValueError(f"{name} is no function of a row alone that answers alike every time")


@functools.cache
def _functions() -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    rows = _connection().execute("SELECT function_name, function_type, stability FROM duckdb_functions()").fetchall()
    for name, kind, stability in rows:
        if kind != "macro":
            found.setdefault(name, set()).add((kind, str(stability)))
    return found


def _text(node: dict[str, Any], condition: Any) -> str:
    source = {**node["from_table"], "table_name": _ROWS}
    source["qualified_name"] = {"path": [_ROWS]}
    asked = {**node, "select_list": [condition], "where_clause": None, "from_table": source}
    statement = {"error": False, "statements": [{"node": asked, "named_param_map": []}]}
    text = str(_connection().execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(statement)]).fetchall()[0][0])
    return text.removeprefix("SELECT ").rpartition(" FROM ")[0]


def try_out(contract: Contract, schema: Any) -> Iterator[tuple[int, str]]:
    """Yield place and complaint of each row rule that cannot be asked of rows of this schema (a wrong type)."""
    for place, rule in enumerate(contract.row_rules):
        try:
            _ask(schema.empty_table().select(list(rule.columns) or schema.names[:1]), rule.broken)
        except duckdb.Error as error:
            yield place, str(error).strip().splitlines()[0]


def broken_rows(table: Any, contract: Contract) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return reason -> mask of the rows that break each rule between columns."""
    found = []
    for rule in contract.row_rules:
        part = table.select(list(rule.columns) or table.column_names[:1])
        found.append((f"row:{rule.name}", _ask(part, rule.broken)))
    return found


def _ask(table: Any, broken: str) -> NDArray[np.bool_]:
    with _connection().cursor() as connection:
        connection.execute("SET enable_progress_bar = false")  # it would go to stdout
        connection.register(_ROWS, table)
        try:
            answer = _answers(connection, f"coalesce(({broken}), false)")
        except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException):
            answer = _answers(connection, f"coalesce(TRY(coalesce(({broken}), false)), true)")
    if not len(answer):
        return np.zeros(0, dtype=bool)
    return np.asarray(pa.concat_arrays(answer.chunks) if answer.num_chunks > 1 else answer.chunk(0))


def _answers(connection: Any, expression: str) -> Any:
    found = connection.sql(f"SELECT CAST({expression} AS BOOLEAN) AS broken FROM {_ROWS}")  # noqa: S608  # checked
    return found.to_arrow_table().column("broken")


@functools.cache
def _connection() -> Any:
    connection = duckdb.connect(":memory:", config={"threads": 1, "memory_limit": "256MB"})
    connection.execute("SET TimeZone = 'UTC'; SET enable_external_access = false")
    return connection
