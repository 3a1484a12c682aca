"""Loads the functions a user writes, from their file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.errors import Permanent, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.handoff import Feature


def load_function(file: str, name: str) -> Callable[..., Any]:
    """Return the function `name` of a Python file.

    Raises:
        SpecError: there is no such file or function.
        Permanent: the file raised while it was loaded.
    """
    found = load_optional(file, name)
    if found is None:
        raise SpecError(f"{file} has no function {name!r}; mend train.model in the delivery, or the file")
    return found


def load_optional(file: str, name: str) -> Callable[..., Any] | None:
    """Return the function `name` of a Python file, or None where it has none; raises as `load_function` does."""
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"tidegate_user_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SpecError(f"model file {file} does not exist or is not Python; mend train.model in the delivery")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything; it is theirs to mend
        raise Permanent(f"{file} cannot be loaded: {type(error).__name__}: {error}; mend the file") from error
    found = getattr(module, name, None)
    return found if callable(found) else None


def build_model(function: Callable[[Sequence[Feature]], Any], features: Sequence[Feature]) -> Any:
    """Call the user's function and check what it gives back.

    Returns:
        A tf_keras.Model of the features' inputs with one output of shape [n, 1].

    Raises:
        Permanent: the function raised, or its model takes other inputs or gives another shape.
    """
    name = getattr(function, "__name__", "build")
    try:
        model = function(features)
    except Exception as error:  # as above
        raise Permanent(f"model function {name} raised {type(error).__name__}: {error}; mend the function") from error
    shape = getattr(model, "output_shape", None)
    if shape != (None, 1):
        raise Permanent(f"model function {name} gives shape {shape}; a probability of shape (None, 1) is asked for")
    unknown = set(getattr(model, "input_names", ())) - {feature.name for feature in features}
    if unknown:
        raise Permanent(f"model function {name} takes inputs that are no features: {', '.join(sorted(unknown))}")
    return model
