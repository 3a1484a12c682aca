"""The DAG files: they parse without errors, quickly, without heavy imports, and hold the rules of the design."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from airflow.dag_processing.dagbag import DagBag

from tidegate.delivery import project_root

DAGS = project_root() / "dags"


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(str(DAGS))


def test_every_kind_of_dag_is_there_and_imports_without_errors(bag):
    assert bag.import_errors == {}
    kinds = ("ingest", "requests", "retrain", "rollout", "rollback")
    assert set(bag.dags) == {*(f"{kind}__flights" for kind in kinds), "reconcile"}


def test_dags_have_documentation_tags_and_a_limit_of_runs(bag):
    for dag in bag.dags.values():
        assert dag.doc_md
        assert "tidegate" in dag.tags
        assert dag.max_active_runs <= 3
        assert not dag.catchup


def test_manual_runs_have_a_form(bag):
    forms = {dag_id: set(dag.params) for dag_id, dag in bag.dags.items()}
    assert {"window_start", "window_end", "refresh"} <= forms["ingest__flights"]
    assert {"window_start", "window_end", "model", "request_id"} <= forms["retrain__flights"]
    assert forms["rollout__flights"] == {"version"}
    assert forms["rollback__flights"] == {"reason", "rollout_id", "candidate"}


def test_what_is_quarantined_is_alerted_also_when_another_source_is_away(bag):
    dag = bag.dags["ingest__flights"]
    validated = {f"{source}.validate" for source in ("flights", "weather", "planes", "airports")}
    alert, publish = dag.get_task("alert"), dag.get_task("publish")
    assert alert.upstream_task_ids == publish.upstream_task_ids == validated
    assert (alert.trigger_rule, publish.trigger_rule) == ("all_done", "all_success")
    assert [asset.name for asset in alert.outlets] == ["flights_quarantine"]
    assert [asset.name for asset in publish.outlets] == ["flights_slices"]


def test_each_source_is_ingested_in_parts_where_it_is_large_and_validated_either_way(bag):
    dag = bag.dags["ingest__flights"]
    for source in ("flights", "weather", "planes", "airports"):
        chain = [dag.get_task(f"{source}.{step}") for step in ("ingest", "read", "seal", "validate")]
        for before, after in itertools.pairwise(chain):
            assert after.upstream_task_ids == {before.task_id}
        assert [task.is_mapped for task in chain] == [False, True, False, False]
        # `read` and `seal` are skipped for a small slice: that must not skip `validate`, as their failure must stop it
        assert [task.trigger_rule for task in chain[1:]] == ["all_success", "all_success", "none_failed"]


def test_windows_of_a_topic_are_frozen_one_by_one_and_have_time_to_wait(bag):
    topic, table = (bag.dags["ingest__flights"].get_task(f"{source}.ingest") for source in ("weather", "flights"))
    assert (topic.max_active_tis_per_dag, table.max_active_tis_per_dag) == (1, None)
    assert topic.execution_timeout - table.execution_timeout == timedelta(minutes=20)


def test_a_window_is_watched_beside_its_publication_which_does_not_wait_for_it(bag):
    dag = bag.dags["ingest__flights"]
    watch, drift = dag.get_task("watch"), dag.get_task("drift")
    assert watch.upstream_task_ids == dag.get_task("publish").upstream_task_ids
    assert watch.downstream_task_ids == {"drift"}
    assert [asset.name for asset in drift.outlets] == ["flights_drift"]


def test_a_model_is_evaluated_beside_its_optimisation_and_registered_after_both(bag):
    dag = bag.dags["retrain__flights"]
    for task in ("evaluate", "optimise"):
        assert dag.get_task(task).upstream_task_ids == {"train"}
    assert dag.get_task("register").upstream_task_ids == {"evaluate", "optimise"}


def test_a_rollout_has_no_run_timeout_that_could_skip_its_rollback(bag):
    dag = bag.dags["rollout__flights"]
    assert dag.dagrun_timeout is None
    roll_back = dag.get_task("roll_back")
    assert roll_back.trigger_rule == "one_failed"
    assert roll_back.trigger_run_id == "rollback__{{ run_id }}"
    assert roll_back.fail_when_dag_is_paused
    leaves = {task.task_id for task in dag.leaves}
    assert leaves == {"roll_back", "delivered"}, "without a second leaf a rolled-back run would end as a success"
    assert dag.get_task("promote").downstream_task_ids == {"roll_back", "delivered"}
    assert dag.get_task("delivered").upstream_task_ids == {"promote"}


def test_stages_of_the_rollout_are_those_of_the_delivery(bag):
    tasks = set(bag.dags["rollout__flights"].task_ids)
    assert {f"stage_{weight}.{step}" for weight in (10, 50, 100) for step in ("shift", "watch")} <= tasks


def test_parsing_imports_nothing_heavy_and_is_quick():
    probe = (
        "import runpy, sys, pathlib\n"
        "for path in sorted(pathlib.Path('dags').glob('*.py')): runpy.run_path(str(path))\n"
        "heavy = {'tensorflow', 'pyarrow', 'pandas', 'numpy', 'mlflow', 'duckdb', 'kafka', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    begun = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", probe], cwd=project_root(), capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.splitlines()[-1] == "[]", "heavy modules are imported while DAG files are parsed"
    assert time.monotonic() - begun < 30


def test_a_delivery_with_a_mistake_leaves_the_other_dags_loaded_and_shows_the_mistake(tmp_path, monkeypatch):
    good = (project_root() / "schemas/deliveries/flights.yaml").read_text()
    (tmp_path / "flights.yaml").write_text(good)
    (tmp_path / "broken.yaml").write_text(good.replace("delivery: flights", "delivery: broken").replace("10%", "10"))
    monkeypatch.setenv("TIDEGATE_DELIVERIES", str(tmp_path))
    bag = DagBag(str(DAGS))
    assert "rollout__flights" in bag.dags
    assert "rollout__broken" not in bag.dags
    (error,) = bag.import_errors.values()
    assert "broken.yaml:" in error
    assert "stages" in error
    assert "Remedy" in error
