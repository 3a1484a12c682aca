"""`rollback__<delivery>`: the champion takes all traffic; started by a rollout that failed, or by a person."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from operators.deliveries import valid_deliveries
from operators.documentation import ROLLBACK, rollback_params
from operators.rollback import RollbackOperator
from tidegate.units import utc

for spec in valid_deliveries():
    with DAG(
        dag_id=f"rollback__{spec.delivery}",
        schedule=None,
        start_date=utc(spec.start),
        catchup=False,
        max_active_runs=1,
        tags=["tidegate", spec.delivery, "rollback"],
        doc_md=ROLLBACK.format(delivery=spec.delivery),
        params=rollback_params(),
        default_args={"retries": 5, "retry_delay": timedelta(seconds=5), "execution_timeout": timedelta(minutes=10)},
    ) as dag:
        RollbackOperator(task_id="rollback", delivery=spec.delivery)
    globals()[dag.dag_id] = dag
