"""The user's one function: found, called, and its model checked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tidegate.errors import Permanent, SpecError
from tidegate.handoff import Feature
from tidegate.train.usercode import build_model, load_function

FEATURES = [Feature(name="delay", encoding="standardise", dtype="FP32", size=1)]


def model(shape=(None, 1), names=("delay",)):
    return SimpleNamespace(output_shape=shape, input_names=list(names))


def test_a_function_is_loaded_by_path_and_name(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("def build(features):\n    return len(features)\n")
    assert load_function(str(file), "build")([1, 2]) == 2


def test_a_missing_file_or_function_is_named(tmp_path):
    with pytest.raises(SpecError, match="does not exist"):
        load_function(str(tmp_path / "model.py"), "build")
    (tmp_path / "model.py").write_text("build = 1\n")
    with pytest.raises(SpecError, match="no function 'build'"):
        load_function(str(tmp_path / "model.py"), "build")


def test_a_file_that_raises_is_permanent(tmp_path):
    (tmp_path / "model.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(Permanent, match="ModuleNotFoundError"):
        load_function(str(tmp_path / "model.py"), "build")


def test_a_model_of_the_features_with_one_probability_is_taken():
    wanted = model()
    assert build_model(lambda _features: wanted, FEATURES) is wanted


@pytest.mark.parametrize("bad", [model(shape=(None, 2)), model(names=("delay", "other")), None])
def test_another_shape_or_unknown_inputs_are_refused(bad):
    with pytest.raises(Permanent):
        build_model(lambda _features: bad, FEATURES)


def test_a_function_that_raises_is_permanent():
    with pytest.raises(Permanent, match="ZeroDivisionError"):
        build_model(lambda _features: 1 // 0, FEATURES)
