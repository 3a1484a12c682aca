"""Reads the YAML files that users write and remembers the line of every field, so that an error can point at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tidegate.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import ValidationError

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One mistake in a file: where it stands, what was found there and how to mend it."""

    file: str
    line: int
    field: str
    value: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.message} (found {self.value}). Remedy: {self.remedy}"


class SpecProblems(SpecError):
    """All mistakes of one file, in the order of their lines."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True)
class YamlFile:
    """A parsed YAML mapping with the line (from 1) at which each field stands."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[FieldPath, int]

    @classmethod
    def read(cls, path: Path) -> YamlFile:
        """Parse one file.

        Raises:
            SpecProblems: the file is missing, is not YAML, repeats a key or is not a mapping.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecProblems([_whole(path, 1, str(error), "put a readable UTF-8 file there")]) from error
        lines: dict[FieldPath, int] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if node is not None:
                _index(node, (), lines, path)
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            what = getattr(error, "problem", None) or str(error)
            raise SpecProblems([_whole(path, line, f"not YAML: {what}", "mend the indentation or quoting")]) from error
        if not isinstance(data, dict):
            raise SpecProblems(
                [
                    _whole(
                        path, 1, "the file must hold a mapping of fields", "start from schemas/deliveries/flights.yaml"
                    )
                ]
            )
        return cls(path=path, data=data, lines=lines)

    def line(self, field: Sequence[str | int]) -> int:
        """Return the line of a field, or of its nearest parent that stands in the file."""
        path = tuple(field)
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, field: Sequence[str | int], value: object, message: str, remedy: str) -> Problem:
        """Describe one mistake at a field of this file."""
        name = ".".join(str(part) for part in field) or "(file)"
        return Problem(str(self.path), self.line(field), name, shown(value), message, remedy)

    def problems(self, error: ValidationError, remedies: Mapping[str, str] | None = None) -> list[Problem]:
        """Turn a pydantic error into problems of this file; `remedies` maps a field's last name to its remedy."""
        return [self._problem_of(item, remedies or {}) for item in error.errors(include_url=False)]

    def _problem_of(self, item: Any, remedies: Mapping[str, str]) -> Problem:
        field = tuple(part for part in item["loc"] if part == "__root__" or part in self._parts)
        full = tuple(item["loc"])
        kind = item["type"]
        if kind == "missing":
            return self.problem(full, "nothing", "this field is required", remedies.get(str(full[-1]), "add it"))
        if kind == "extra_forbidden":
            return self.problem(full, full[-1], "no such field", "remove it, or mend its spelling")
        message = str(item["msg"]).removeprefix("Value error, ")
        remedy = remedies.get(str(full[-1]) if full else "", "write a value of the form described in the schema")
        message, _, own_remedy = message.partition(" Remedy: ")
        return self.problem(field or full, item.get("input"), message, own_remedy or remedy)

    @property
    def _parts(self) -> set[str | int]:
        return {part for path in self.lines for part in path}


def shown(value: object) -> str:
    """Render a value for an error message, short enough for one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _whole(path: Path, line: int, message: str, remedy: str) -> Problem:
    return Problem(str(path), line, "(file)", path.name, message, remedy)


def _index(node: yaml.Node, at: FieldPath, lines: dict[FieldPath, int], path: Path) -> None:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            if here in lines:
                problem = Problem(
                    str(path), key.start_mark.line + 1, ".".join(map(str, here)), shown(key.value),
                    f"this field stands twice, first at line {lines[here]}", "keep one of them",
                )  # fmt: skip
                raise SpecProblems([problem])
            lines[here] = key.start_mark.line + 1
            _index(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            _index(value, (*at, position), lines, path)
