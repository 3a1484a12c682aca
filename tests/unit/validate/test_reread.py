"""Raw messages under a later contract: what was kept as bytes is decoded again, and nothing is made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tidegate.contract import Column, Contract
from tidegate.contract.arrow import slice_schema
from tidegate.contract.decode import decode_json
from tidegate.contract.masks import judge
from tidegate.errors import DataError
from tidegate.validate.reread import reread

OLD = Contract("w", "1.0.0", (Column("at", "int64", "int64"), Column("v", "float64", "float64")), "w.yaml", "0" * 64)
TEXT = Column("at", "string", "int64", lexical_form=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", cast="epochSeconds")
NEW = replace(OLD, version="2.0.0", columns=(TEXT, OLD.columns[1]))
MESSAGES = [b'{"at": 5, "v": 1}', b'{"at": "2013-01-01T00:00:00Z", "v": 2.5}', b"{\xff", None, b'{"v": 3}']


def raw(contract: Contract, messages: list[bytes | None]) -> Any:
    rows = [decode_json(message, f"w/0/{n}", contract) for n, message in enumerate(messages)]
    return pa.Table.from_pylist(rows, schema=slice_schema(contract))


@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[1:4], MESSAGES[:1], []])
def test_judged_again_is_as_if_read_again_by_the_new_contract(messages: list[bytes | None]) -> None:
    again, fresh = (judge(table, NEW) for table in (reread(raw(OLD, messages), NEW), raw(NEW, messages)))

    assert again.clean.equals(fresh.clean)
    assert again.reasons == fresh.reasons
    assert again.bad.tolist() == fresh.bad.tolist()


def test_bytes_that_fit_now_become_values_and_the_others_stay_as_they_are() -> None:
    wider = replace(OLD, columns=(Column("at", "int64", "int64"), Column("v", "string", "string")))
    table = raw(wider, [b'{"at": 1, "v": "a"}', b'{"at": "x", "v": "b"}', b'{"at": 3, "v": "c"}'])
    text = replace(wider, columns=(wider.columns[0], replace(wider.columns[1], max_length=1)))

    assert reread(table, text).equals(table)
    assert reread(table, text).column("_bytes").to_pylist() == [None, b'{"at": "x", "v": "b"}', None]


def test_what_only_the_source_can_tell_is_asked_for_and_never_made_up() -> None:
    added = replace(OLD, columns=(*OLD.columns, Column("extra", "string", "string")))
    with pytest.raises(DataError, match=r"column 'extra' .* is not in the slice.*read the slice again"):
        judge(reread(raw(OLD, MESSAGES), added), added)

    moment = replace(OLD, columns=(Column("at", "timestamp", "timestamp"), OLD.columns[1]))
    with pytest.raises(DataError, match=r"column 'at' is timestamp\[us, tz=UTC\] in the slice but string"):
        judge(reread(raw(moment, [b'{"at": "2013-01-01T00:00:00Z"}']), NEW), NEW)


def test_a_column_that_no_decoded_message_had_may_be_added_where_the_bytes_are_kept() -> None:
    added = replace(NEW, columns=(*NEW.columns, Column("extra", "string", "string")))
    table = raw(OLD, [b'{"at": "2013-01-01T00:00:00Z", "v": 1, "extra": "x"}'])

    assert judge(reread(table, added), added).clean.to_pylist() == [{"at": 1356998400, "v": 1.0, "extra": "x"}]
