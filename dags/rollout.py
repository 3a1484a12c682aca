"""`rollout__<delivery>`: candidate -> lease -> stages, each shifted and watched -> bake -> promoted, or rolled back."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, PartitionedAssetTimetable, TaskGroup, chain

from operators.deliveries import valid_deliveries
from operators.documentation import ROLLOUT, version_param
from operators.rollout import BakeOperator, BeginOperator, PromoteOperator, ShiftOperator, StageSensor, rollout_id
from operators.support import candidate_asset
from tidegate.units import utc

for spec in valid_deliveries():
    name = spec.delivery
    # No dagrun_timeout here, ever: it would skip the rollback. Each stage has its own deadline.
    with DAG(
        dag_id=f"rollout__{name}",
        schedule=PartitionedAssetTimetable(assets=candidate_asset(name)),
        start_date=utc(spec.start),
        catchup=False,
        max_active_runs=1,
        tags=["tidegate", name, "rollout"],
        doc_md=ROLLOUT.format(delivery=name),
        params=version_param(),
        default_args={"retries": 1, "retry_delay": timedelta(seconds=5), "execution_timeout": timedelta(minutes=10)},
    ) as dag:
        begin = BeginOperator(task_id="begin", delivery=name)
        promote = PromoteOperator(
            task_id="promote", delivery=name, begin_task="begin", trigger_rule="none_failed", retries=3
        )  # a registry that is away for a moment must not cost a good candidate its promotion
        steps = [begin]
        for position, stage in enumerate(spec.rollout.stages):
            with TaskGroup(group_id=f"stage_{stage.name}"):
                shift = ShiftOperator(task_id="shift", delivery=name, begin_task="begin", stage=position)
                steps += [shift, StageSensor(task_id="watch", delivery=name, begin_task="begin")]
        with TaskGroup(group_id="bake"):
            hold = BakeOperator(task_id="hold", delivery=name, begin_task="begin")
            steps += [hold, StageSensor(task_id="watch", delivery=name, begin_task="begin")]
        chain(*steps, promote)
        # A run's state is that of its leaves: `roll_back` succeeds where it takes a candidate back, so this second leaf
        # fails with `promote`, and the run with it.
        delivered = EmptyOperator(task_id="delivered")
        promote >> delivered
        roll_back = TriggerDagRunOperator(
            task_id="roll_back",
            trigger_dag_id=f"rollback__{name}",
            trigger_run_id="rollback__{{ run_id }}",
            logical_date=None,
            conf={"rollout_id": rollout_id(dag.dag_id, "{{ run_id }}"), "reason": "the rollout failed: see its log"},
            skip_when_already_exists=True,
            fail_when_dag_is_paused=True,
            trigger_rule="one_failed",
            retries=5,
        )
        [*steps[1:], promote] >> roll_back
    globals()[dag.dag_id] = dag
