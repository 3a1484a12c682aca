"""Lexical forms of one width are told byte by byte, and say what the regular expression says."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.forms import _limits, has_form

FIXED = [r"\d{4}-\d{2}-\d{2}T\d{2}:00:00Z", r"\d\d:\d\d", r"N[1-9][0-9][A-F]", r"\[\d{2}\]", r"a{3}b", r"\+\d"]
OTHERS = [
    r"\d+",
    r"[+-]?\d{2}",
    r"(?i)ab",
    r"a|b",
    r"a.c",
    r"",
    r"é{2}",
    r"\w\d",
    r"[^a]b",
    r"\d{2,3}",
    r"[!-\]]x",
    r"x^",
]
CLOSE = st.text(alphabet="0123456789-T:Z[]+NABFGab\n\0é", max_size=22)


@pytest.mark.parametrize("form", FIXED)
def test_a_form_of_one_width_is_known_as_such(form: str) -> None:
    assert _limits(form) is not None


@pytest.mark.parametrize("form", OTHERS)
def test_any_other_form_is_left_to_the_regular_expression(form: str) -> None:
    assert _limits(form) is None


@given(
    form=st.sampled_from([*FIXED, *OTHERS[:-2]]),
    near=st.lists(st.none() | CLOSE | st.text(max_size=4), max_size=20),
    exact=st.lists(
        st.from_regex(r"\d{4}-\d{2}-\d{2}T\d{2}:00:00Z|\d\d:\d\d|N[1-9]\d[A-F]", fullmatch=True), max_size=5
    ),
    start=st.integers(0, 5),
)
def test_both_ways_say_the_same(form: str, near: list[str | None], exact: list[str], start: int) -> None:
    texts = pa.array([*near, *exact], pa.string()).slice(start)
    expected = pc.match_substring_regex(texts, pattern=rf"\A(?:{form})\z")
    assert has_form(texts, form).to_pylist() == expected.to_pylist()


def test_texts_are_told_over_many_blocks() -> None:
    texts = pa.array(["12:34", "1x:34", None, "12:345"] * 30_000)
    assert has_form(texts, r"\d\d:\d\d").to_pylist() == [True, False, None, False] * 30_000
