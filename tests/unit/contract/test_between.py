"""Rules between columns: plain ODCS, one safe expression, the same answer every time."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import raw_schema
from tidegate.contract.between import read_rule
from tidegate.contract.masks import judge
from tidegate.contract.model import RowRule

COLUMNS = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("SELECT COUNT(*) FROM ${object} WHERE NOT (a < b)", ("a", "b")),
        ("select count(*) from ${table} where a + 1 > b or c like 'x%'", ("a", "b", "c")),
        (
            "SELECT COUNT(*) FROM things WHERE CASE WHEN a IS NULL THEN length(c) > 2 ELSE a BETWEEN 1 AND 2 END",
            ("a", "c"),
        ),
    ],
)
def test_a_rule_is_one_expression_over_its_columns(query: str, columns: tuple[str, ...]) -> None:
    assert read_rule(query, "things", COLUMNS)[1] == columns


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT COUNT(*) FROM things WHERE random() > 0.5", "random"),
        ("SELECT COUNT(*) FROM things WHERE now() > d", "now"),
        ("SELECT COUNT(*) FROM things WHERE current_date > d", "current_date"),
        ("SELECT COUNT(*) FROM things WHERE getenv('HOME') = c", "getenv"),
        ("SELECT COUNT(*) FROM things WHERE a > (SELECT max(a) FROM things)", "subquery"),
        ("SELECT COUNT(*) FROM things WHERE sum(a) > 1", "sum"),
        ("SELECT COUNT(*) FROM things WHERE row_number() OVER () > 1", "window"),
        ("SELECT COUNT(*) FROM things WHERE e > 1", "no column 'e'"),
        ("SELECT COUNT(*) FROM 'file.csv' WHERE a > 1", "something other"),
        ("SELECT COUNT(*) FROM things JOIN things t ON true WHERE a > 1", "something other"),
        ("SELECT COUNT(*) FROM things", "COUNT"),
        ("SELECT COUNT(a) FROM things WHERE a > 1", "COUNT"),
        ("SELECT COUNT(*) FROM things WHERE a > 1 GROUP BY b", "COUNT"),
        ("SELECT COUNT(*) FROM things WHERE a > 1; DROP TABLE things", "SELECT"),
        ("COPY things TO '/tmp/x'", "SELECT"),
        ("gibberish", "SELECT"),
    ],
)
def test_what_is_no_steady_expression_over_one_row_is_refused(query: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_rule(query, "things", COLUMNS)


def rules(query: str) -> Contract:
    broken, columns = read_rule(query, "t", ("a", "b", "c"))
    plain = (Column("a", "int32", "int32"), Column("b", "int32", "int32", maximum=9), Column("c", "string", "string"))
    return Contract("t", "1", plain, "t.yaml", "0" * 64, row_rules=(RowRule("r", broken, columns),))


def test_null_breaks_nothing_and_each_broken_row_is_named() -> None:
    contract = rules("SELECT COUNT(*) FROM t WHERE a > b")
    table = pa.table({"a": [1, None, 5, 6], "b": [2, 2, 2, 10], "c": [None] * 4}, schema=raw_schema(contract))

    assert judge(table, contract).reasons == [["row:r"], ["b:maximum"]]


def test_a_row_at_which_the_expression_fails_breaks_the_rule_and_the_others_do_not() -> None:
    contract = rules("SELECT COUNT(*) FROM t WHERE CAST(c AS INTEGER) > 3")
    table = pa.table({"a": [1] * 4, "b": [1] * 4, "c": ["1", "x", None, "5"]}, schema=raw_schema(contract))

    assert judge(table, contract).bad.tolist() == [1, 3]
