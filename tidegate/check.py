"""Reads deliveries and contracts as a person would: is each file right, and do they fit each other?

Every mistake is a Problem with file, line, field, value and remedy; nothing is imported from the user's folder and
nothing is run but the SELECT, over empty tables.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tidegate.contract import contracts_folder, published
from tidegate.contract.arrow import clean_schema
from tidegate.contract.odcs import read_contract
from tidegate.dataset import checked, chosen_encodings
from tidegate.delivery import deliveries_folder, project_root, read_delivery
from tidegate.errors import SpecError
from tidegate.yamlfile import Problem, SpecProblems, YamlFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tidegate.contract import Contract
    from tidegate.delivery import Delivery, Source


def check(files: Sequence[Path] = (), contracts: Path | None = None, root: Path | None = None) -> list[Problem]:
    """Return all problems of the given files, or of all deliveries and contracts where none are given.

    A file that has the field `apiVersion`, or lies in the folder of contracts, is one; any other is a delivery.
    `contracts` is that folder, `root` the one that deliveries' folders are relative to (default: the project's).
    """
    folder = contracts or contracts_folder()
    chosen = list(files) or [*sorted(deliveries_folder().glob("*.yaml")), *sorted(folder.glob("*.yaml"))]
    if not chosen:
        where = str(deliveries_folder())
        return [Problem(where, 1, "(folder)", "nothing", "there is no delivery here", "write one, as in examples/")]
    found: dict[Problem, None] = {}
    for path in chosen:
        found.update(dict.fromkeys(_file(path, folder, root or project_root())))
    return sorted(found, key=lambda problem: (problem.file, problem.line))


def _file(path: Path, contracts: Path, root: Path) -> list[Problem]:
    try:
        file = YamlFile.read(path)
        if "apiVersion" in file.data or path.parent.resolve() == contracts.resolve():
            read_contract(path)
            return published.problems(path)
        delivery = read_delivery(path)
    except SpecProblems as error:
        return list(error.problems)
    problems = []
    loaded: dict[str, Contract] = {}
    for name, source in delivery.sources.items():
        try:
            contract = _contract(file, name, source, contracts)
        except SpecProblems as error:
            problems += list(error.problems)
            continue
        loaded[name] = contract
        problems += _fits(file, name, source, contract)
    problems += _model(file, delivery, root / delivery.folder)
    if len(loaded) == len(delivery.sources):
        problems += _dataset(file, delivery, root / delivery.folder, loaded)
    return problems


def _contract(file: YamlFile, name: str, source: Source, folder: Path) -> Contract:
    path = folder / f"{source.contract}.yaml"
    if not path.exists():
        have = ", ".join(sorted(other.stem for other in folder.glob("*.yaml"))) or "none"
        remedy = f"write {path}, or name one of: {have}"
        at = ["sources", name, "contract"]
        raise SpecProblems([file.problem(at, source.contract, "there is no such contract", remedy)])
    return read_contract(path)


def _fits(file: YamlFile, name: str, source: Source, contract: Contract) -> list[Problem]:
    clock = contract.event_time
    if source.postgres and source.postgres.time:
        at = ("sources", name, "postgres", "time")
        if contract.column(source.postgres.time) is None:
            remedy = f"name one of its columns: {', '.join(contract.names)}"
            return [file.problem(at, source.postgres.time, f"{contract.path} has no such column", remedy)]
        if clock is None or clock.name != source.postgres.time:
            remedy = f"add the custom property eventTime to {source.postgres.time} in {contract.path}"
            return [file.problem(at, source.postgres.time, "this column is not the contract's event time", remedy)]
    if source.hdfs and source.hdfs.is_windowed and clock is None:
        remedy = f"add the custom property eventTime to the column of {contract.path} that says when"
        message = "files are read by the window in their path, and this contract has no time to compare with it"
        return [file.problem(("sources", name, "contract"), source.contract, message, remedy)]
    if source.kafka and clock is None:
        remedy = f"add the custom property eventTime to the column of {contract.path} that says when"
        message = "a topic is read by time, and this contract has none"
        return [file.problem(("sources", name, "contract"), source.contract, message, remedy)]
    return []


def _model(file: YamlFile, delivery: Delivery, folder: Path) -> list[Problem]:
    problems = []
    wanted = [(("train", "model"), delivery.train.model)]
    wanted += [(("train", "alternatives"), name) for name in delivery.train.alternatives]
    for at, name in wanted:
        module, _, function = name.partition(":")
        path = folder / f"{module}.py"
        if not path.exists():
            problems.append(file.problem(at, name, f"there is no {path}", "write it, or mend the delivery's folder"))
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            line = getattr(error, "lineno", None) or 1
            problems.append(Problem(str(path), line, "(python)", path.name, f"no Python: {error}", "mend the file"))
            continue
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
        if function not in defined:
            remedy = f"define it, or name one of: {', '.join(defined) or 'none'}"
            problems.append(file.problem(at, name, f"{path} defines no function {function}", remedy))
    return problems


def _dataset(file: YamlFile, delivery: Delivery, folder: Path, contracts: dict[str, Contract]) -> list[Problem]:
    empty = {name: clean_schema(contract).empty_table() for name, contract in contracts.items()}
    try:
        schema = checked(empty, folder / delivery.dataset.sql, delivery.dataset)
        chosen_encodings(schema, delivery.dataset, contracts)
    except SpecProblems as error:
        return list(error.problems)
    except SpecError as error:
        message, _, remedy = str(error).rpartition("; ")
        return [file.problem(("dataset", "sql"), delivery.dataset.sql, message, remedy)]
    return []
