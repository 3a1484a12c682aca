"""The table of what each engine expresses of a contract, for docs/contracts.md: made from what the compilers say."""

from __future__ import annotations

from importlib import import_module
from typing import get_args

from tidegate.contract.model import Column, Kind
from tidegate.contract.targets import ENGINES, RULES

START, END = "<!-- engines: made by python -m tidegate.contract.targets.listing -->", "<!-- /engines -->"
_LIMITS = ("minimum", "maximum", "exclusive_minimum", "exclusive_maximum")


def table() -> str:
    """Return the table as Markdown, with the whys below it."""
    whys: list[str] = []
    lines = ["| rule | " + " | ".join(f"`{engine}`" for engine in ENGINES) + " |", "| --- |" + " --- |" * len(ENGINES)]
    for rule, meaning in RULES.items():
        cells = [_cell(engine, rule, whys) for engine in ENGINES]
        lines.append(f"| `{rule}`: {meaning} | " + " | ".join(cells) + " |")
    notes = [f"{number}. {why}" for number, why in enumerate(whys, 1)]
    return "\n".join([*lines, "", *notes])


def _cell(engine: str, rule: str, whys: list[str]) -> str:
    module = import_module(f"tidegate.contract.targets.{engine}")
    if rule in module.CANNOT:
        return f"no ({_note(module.CANNOT[rule], whys)})"
    found = [why for column in _columns(rule) if (why := module.cannot(column, rule)) is not None]
    notes = sorted({_note(why, whys) for why in found})
    return f"yes, but ({', '.join(map(str, notes))})" if notes else "yes"


def _note(why: str, whys: list[str]) -> int:
    if why not in whys:
        whys.append(why)
    return whys.index(why) + 1


def _columns(rule: str) -> list[Column]:
    """Return one column of each kind for which the rule exists, castable texts and nested ones among them."""
    texts = rule in ("pattern", "min_length", "max_length")
    kinds = [kind for kind in get_args(Kind) if kind not in ("list", "struct") and (kind == "string" or not texts)]
    plain = [] if rule in ("nested", "min_items", "max_items") else [Column("x", kind, kind) for kind in kinds]
    if rule in ("minimum", "enum"):
        plain.append(Column("x", "string", "int64", lexical_form=r"\d+"))
    if not texts and rule not in _LIMITS and rule != "enum":
        inner = Column("y", "string", "string")
        plain.append(Column("x", "list", "list", items=inner))
        if rule not in ("min_items", "max_items"):
            plain.append(Column("x", "struct", "struct", fields=(inner,)))
    return [*plain, Column("x", "string", "string", missing=("NA",))] if rule != "nested" else plain


def page(text: str) -> str:
    """Return the text of a page with the table put between its marks."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    from tidegate.delivery import project_root

    path = project_root() / "docs" / "contracts.md"
    path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(path)
