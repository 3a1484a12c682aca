"""`requests__<delivery>`: Kafka messages that ask to retrain -> one partition of the request asset for each."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

from operators.deliveries import valid_deliveries
from operators.documentation import REQUESTS
from operators.requests import DrainRequestsOperator, SettleRequestsOperator
from operators.triggers.requests import KafkaRequestTrigger
from tidegate.units import utc

for spec in valid_deliveries():
    if spec.retrain.kafka is None:
        continue
    source = spec.retrain.kafka
    watcher = AssetWatcher(
        name=f"{spec.delivery}_requests_watcher",
        trigger=KafkaRequestTrigger(source.connection, source.topic, f"tidegate-requests-{spec.delivery}"),
    )
    inbox = Asset(name=f"{spec.delivery}_inbox", uri=f"tidegate://{spec.delivery}/inbox", watchers=[watcher])
    with DAG(
        dag_id=f"requests__{spec.delivery}",
        schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("*/5 * * * *", timezone="UTC"), assets=[inbox]),
        start_date=utc(spec.start),
        catchup=False,
        max_active_runs=1,
        tags=["tidegate", spec.delivery, "requests"],
        doc_md=REQUESTS.format(delivery=spec.delivery),
        default_args={
            "retries": 2,
            "retry_delay": timedelta(seconds=5),
            "execution_timeout": timedelta(minutes=5),
        },
    ) as dag:
        drain = DrainRequestsOperator(task_id="drain", delivery=spec.delivery, inbox=inbox)
        settle = SettleRequestsOperator(task_id="settle", delivery=spec.delivery, inbox=inbox, drain_task="drain")
        drain >> settle
    globals()[dag.dag_id] = dag
