"""The pure parts of the backend `tfserving`; tests/stack/test_tfserving.py has it talk to servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.clients.model_server import Endpoint, ModelServer
from tidegate.clients.tfserving import TfServing, pool_of
from tidegate.clients.tfserving_api import ModelConfig, ModelService, config_text, message, parse_config
from tidegate.clients.tfserving_slot import Loaded, Slot, SlotServer
from tidegate.delivery import ServeSpec
from tidegate.errors import DataError, SetupError, Unavailable
from tidegate.handoff import Bundle, Dataset, Request, Window
from tidegate.lake import Lake
from tidegate.rollout.steps import routing_of

SLOT = {"name": "a", "grpc": "127.0.0.1:1", "rest": "127.0.0.1:2"}
MODELS = [ModelConfig("flights", "/models/flights", (3, 4), {"stable": 3, "canary": 4})]
WINDOW = Window(start="2013-01-01", end="2013-02-01")


def a_bundle(target: str = "savedmodel") -> Bundle:
    return Bundle(
        delivery="tiny", version=3, key="bundles/tiny/v3", target=target, metrics={}, digest="d",  # type: ignore[arg-type]
        request=Request(request_id="r", delivery="tiny", window=WINDOW),
        dataset=Dataset(delivery="tiny", window=WINDOW, key="d", train_rows=1, test_rows=1, label="late", features=[],
                        digest="d", slices={}),
    )  # fmt: skip


def a_server(folder: Path, **pool: object) -> TfServing:
    found = pool_of({"folder": str(folder / "slots"), "slots": [SLOT], **pool}, "here")
    return TfServing(found, Lake(f"file://{folder / 'lake'}"), folder / "targets", timeout_s=0.0)


def test_a_configuration_names_just_its_versions_and_is_read_back() -> None:
    text = config_text(MODELS)
    assert parse_config(text) == MODELS
    assert "specific {" in text
    assert 'model_platform: "tensorflow"' in text


def test_a_server_is_never_given_an_empty_configuration() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        config_text([])
    with pytest.raises(ValueError, match="at least one model"), ModelService("127.0.0.1:1") as service:
        service.reload([], 1.0)


def test_a_text_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_config_lists"):
        parse_config("model_config_lists {}")
    (tmp_path / "models.config").write_text("?")
    with pytest.raises(SetupError, match=r"models\.config is no ModelServerConfig .*Remedy: stop the server of slot a"):
        SlotServer(Slot.model_validate(SLOT), tmp_path).configured()


def test_messages_are_those_of_the_real_definitions() -> None:
    request = message("GetModelStatusRequest")()
    request.model_spec.name = "flights"
    assert request.SerializeToString() == b"\n\x09\n\x07flights"
    states = message("ModelVersionStatus").DESCRIPTOR.enum_types_by_name["State"].values_by_name
    assert {name: value.number for name, value in states.items()} == {
        "UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50,
    }  # fmt: skip


def test_a_server_that_is_away_is_named_with_its_time_out() -> None:
    with ModelService("127.0.0.1:1", timeout_s=0.5) as service, pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 did"):
        service.status("flights")


def test_a_slot_tells_its_server_paths_as_the_server_sees_them(tmp_path: Path) -> None:
    server = SlotServer(Slot.model_validate({**SLOT, "base": "/models"}), tmp_path)
    server.path(Loaded("flights", 3)).mkdir(parents=True)
    (tmp_path / "models.config").write_text(config_text(MODELS))
    assert server.configured() == [Loaded("flights", 3), Loaded("flights", 4)]
    server.give_up(Loaded("flights", 4))
    (left,) = parse_config((tmp_path / "models.config").read_text())
    assert (left.base_path, left.versions, left.labels) == ("/models/flights", (3,), {})


def test_a_slot_without_another_version_waits_for_the_next_one_when_it_starts_again(tmp_path: Path) -> None:
    server = SlotServer(Slot.model_validate(SLOT), tmp_path)
    (tmp_path / "models.config").write_text(config_text([ModelConfig("flights", "x", (4,))]))
    server.give_up(Loaded("flights", 4))
    assert server.configured() == []


def test_a_slot_is_loaded_into_by_one_process_at_a_time(tmp_path: Path) -> None:
    server = SlotServer(Slot.model_validate(SLOT), tmp_path)
    refused = pytest.raises(Unavailable, match="slot a has been loaded into by another process")
    with server.held(1.0), refused, server.held(0.0):
        pytest.fail("two hold it")


def test_no_slots_is_an_error_that_says_how_to_name_them() -> None:
    with pytest.raises(
        SetupError, match=r"tfserving and here names no slots: .*Remedy: write .*serve\.server to triton"
    ):
        pool_of(None, "here")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"folder": "/x", "slots": []}, "written wrongly"),
        ({"folder": "x", "slots": [SLOT]}, "folder"),
        ({"folder": "/x", "slots": [{**SLOT, "port": 1}]}, "port"),
        ({"folder": "/x", "slots": [SLOT, {**SLOT, "grpc": "127.0.0.1:3", "rest": "127.0.0.1:4"}]}, "name a twice"),
        ({"folder": "/x", "slots": [SLOT, {**SLOT, "name": "b", "rest": "127.0.0.1:4"}]}, "grpc 127.0.0.1:1 twice"),
    ],
)
def test_slots_that_are_written_wrongly_are_refused(found: dict[str, object], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        pool_of(found, "here")


def test_only_a_savedmodel_can_be_served(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds a onnx artefact.*optimise\.target to savedmodel"):
        a_server(tmp_path).deploy(a_bundle("onnx"))


def test_a_bundle_that_is_not_published_takes_no_slot(tmp_path: Path) -> None:
    server: ModelServer = a_server(tmp_path)
    with pytest.raises(DataError, match="nothing is published"):
        server.deploy(a_bundle())
    assert server.endpoints() == {}
    assert not server.ready("tiny-v3")
    server.retire("tiny-v3")


def test_callers_of_a_delivery_speak_what_its_server_does() -> None:
    assert routing_of(ServeSpec(server="tfserving")).protocol == "tfserving"
    assert routing_of(ServeSpec()).protocol == "kserve"


def test_an_endpoint_knows_where_its_version_alone_answers() -> None:
    where = Endpoint(name="late_v2-v12", host="127.0.0.1", port=8501, metrics_port=8501, protocol="tfserving")
    assert where.predict_url == "http://127.0.0.1:8501/v1/models/late_v2/versions/12:predict"
    assert where.describe_url == "http://127.0.0.1:8501/v1/models/late_v2/versions/12/metadata"
    kserve = Endpoint(name="late_v2-v12", host="127.0.0.1", port=8000, metrics_port=8002)
    assert (kserve.predict_url, kserve.describe_url) == (
        "http://127.0.0.1:8000/v2/models/late_v2/infer",
        "http://127.0.0.1:8000/v2/models/late_v2",
    )
    old = '{"name": "late_v2-v12", "host": "127.0.0.1", "port": 8000, "metrics_port": 8002}'
    assert Endpoint.model_validate_json(old) == kserve
