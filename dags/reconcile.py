"""`reconcile`: every minute, what is should be what is on record; one task per delivery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, CronTriggerTimetable

from operators.deliveries import valid_deliveries
from operators.documentation import RECONCILE
from operators.rollback import ReconcileOperator

with DAG(
    dag_id="reconcile",
    schedule=CronTriggerTimetable("* * * * *", timezone="UTC"),
    start_date=datetime(2013, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["tidegate", "reconcile"],
    doc_md=RECONCILE,
    default_args={"retries": 0, "execution_timeout": timedelta(minutes=5)},
) as dag:
    for spec in valid_deliveries():
        ReconcileOperator(task_id=spec.delivery, delivery=spec.delivery)
