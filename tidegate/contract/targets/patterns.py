"""RE2 patterns in the words of other regular expressions, so that all engines mean the same texts."""

from __future__ import annotations

_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "s": r"\t\n\f\r "}
_NEGATED = {"D": "d", "W": "w", "S": "s"}


def portable(pattern: str, end: str = "$") -> str:
    r"""Return a pattern whose `\d`, `\w`, `\s` are ASCII's and whose `$` and `\z` are `end` (Python: `\Z`).

    ECMA's `$` is the text's end, as RE2's is; Python's also stands before a last newline.
    """
    out: list[str] = []
    at, inside = 0, False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            out.append(_escaped(pattern[at + 1], inside, end))
            at += 2
            continue
        if char == "[" and not inside:
            inside = True
            start = 2 if pattern[at + 1 : at + 2] == "^" else 1
            if pattern[at + start : at + start + 1] == "]":  # a first bracket is a character
                out.append(pattern[at : at + start] + "\\]")
                at += start + 1
                continue
        elif char == "]":
            inside = False
        elif char == "$" and not inside:
            char = end
        out.append(char)
        at += 1
    return "".join(out)


def whole(pattern: str, end: str = "$") -> str:
    """Return a portable pattern that the whole text must match."""
    return f"^(?:{portable(pattern, end)}){end}"


def _escaped(char: str, inside: bool, end: str) -> str:
    if char in _CLASSES:
        return _CLASSES[char] if inside else f"[{_CLASSES[char]}]"
    if char in _NEGATED and not inside:
        return f"[^{_CLASSES[_NEGATED[char]]}]"
    if char == "z":
        return end
    return "^" if char == "A" else f"\\{char}"
