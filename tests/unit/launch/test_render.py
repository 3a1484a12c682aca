"""What `tidegate render` prints."""

from __future__ import annotations

import yaml
from typer.testing import CliRunner

from tidegate.cli import app
from tidegate.delivery import deliveries_folder


def test_the_objects_of_a_stage_are_printed_as_yaml(tmp_path, monkeypatch):
    text = (deliveries_folder() / "flights.yaml").read_text().replace("launcher: local", "launcher: kubernetes")
    assert "kubernetes" in text
    data = yaml.safe_load(text)
    data["train"]["pods"] = {"image": "registry.example/train:1", "gpus": 1}
    (tmp_path / "flights.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setenv("TIDEGATE_DELIVERIES", str(tmp_path))
    done = CliRunner().invoke(app, ["render", "flights", "train"])
    assert done.exit_code == 0, done.output
    job, service = yaml.safe_load_all(done.output)
    assert (job["kind"], service["kind"]) == ("Job", "Service")
    assert job["spec"]["completions"] == data["train"]["workers"]
    assert service["metadata"]["name"] == job["metadata"]["name"]


def test_a_delivery_that_trains_on_one_machine_has_none_and_says_so():
    done = CliRunner().invoke(app, ["render", "flights"])
    assert done.exit_code != 0
    assert "set launcher: kubernetes and pods" in " ".join(done.output.split())
