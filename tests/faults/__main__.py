"""`python -m tests.faults`: run the cases, print the table, keep it as var/faults/<time>.json."""

from __future__ import annotations

import argparse
import fnmatch
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console

from tests.faults import cases, table
from tests.faults.cases import Case
from tests.faults.place import VAR, placed
from tests.faults.running import Result, run


def chosen(only: Sequence[str] = (), sample: int | None = None, seed: int = 1, everything: bool = False) -> list[Case]:
    """Return the cases to run.

    Args:
        only: parts of names, or patterns with * and ?; without any, all.
        sample: how many, chosen by chance.
        seed: the same seed chooses the same cases.
        everything: from the whole matrix of parts, strikes and moments.
    """
    found = cases.matrix() if everything else cases.every()
    if only:
        found = [case for case in found if any(_fits(case.name, pattern) for pattern in only)]
    if sample is not None and sample < len(found):
        found = random.Random(seed).sample(found, sample)
    return found


def _fits(name: str, pattern: str) -> bool:
    whole = pattern if any(c in pattern for c in "*?") else f"*{pattern}*"
    return fnmatch.fnmatchcase(name.lower(), whole.lower())


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if every case passed, 1 if one did not, 2 if none was chosen."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="part of a name, or a pattern with * and ?; may be repeated"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="so many, chosen by chance")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of that choice (default 1)")
    parser.add_argument("--matrix", action="store_true", help="every part and strike at every moment: some hours")
    asked = parser.parse_args(argv)
    console = Console()
    wanted = chosen(asked.only or (), asked.sample, asked.seed, asked.matrix)
    if asked.list or not wanted:
        console.print("\n".join(case.name for case in wanted) or "no case has such a name", highlight=False)
        return 0 if wanted else 2
    path = VAR / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    results: list[Result] = []
    begun = time.time()
    with placed(lambda text: console.print(text, highlight=False)) as place:
        for number, case in enumerate(wanted, 1):
            results.append(run(place, case))
            console.print(f"{number:>3} of {len(wanted)}  {_line(results[-1])}", highlight=False, soft_wrap=True)
            table.write(path, results, {"began": begun, "wall_s": round(time.time() - begun, 1)})
    console.print(table.table(results), soft_wrap=True)
    console.print(f"kept as {path}", highlight=False)
    return 0 if all(result.passed or result.skipped for result in results) else 1


def _line(result: Result) -> str:
    if result.skipped:
        return f"[yellow]not tried[/] {result.name}: {result.skipped}"
    mark = "[green]passed[/]" if result.passed else "[bold red]failed[/]"
    figures = (
        f"{result.outcome}, {result.failed_by_switching} failed by switching, {result.failed_by_fault} by the fault"
    )
    text = f"{mark} {result.name}: {figures}, recovered after {result.recovered_s} s ({result.seconds:.0f} s in all)"
    return "\n       ".join([text, *result.reasons])


if __name__ == "__main__":
    sys.exit(main())
