"""`ingest__<delivery>`: one window of every source -> slice -> validated slice, published and watched."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronDataIntervalTimetable, TaskGroup

from operators.deliveries import stops_on_drift, valid_deliveries
from operators.documentation import INGEST, refresh_param, window_params
from operators.ingest import (
    AlertOperator,
    IngestOperator,
    PublishOperator,
    ReadPartOperator,
    SealOperator,
    ValidateOperator,
)
from operators.watch import DriftOperator, WatchOperator
from tidegate.units import cron_of, utc

for spec in valid_deliveries():
    with DAG(
        dag_id=f"ingest__{spec.delivery}",
        schedule=CronDataIntervalTimetable(cron_of(spec.window), timezone="UTC"),
        start_date=utc(spec.start),
        end_date=utc(spec.end) if spec.end else None,
        catchup=False,
        max_active_runs=3,
        tags=["tidegate", spec.delivery, "ingest"],
        doc_md=INGEST.format(delivery=spec.delivery),
        params={**window_params(), **refresh_param()},
        default_args={
            "retries": 3,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=5),
            "execution_timeout": timedelta(hours=1),
        },
    ) as dag:
        validate_tasks = [f"{name}.validate" for name in spec.sources]
        watch = WatchOperator(
            task_id="watch", delivery=spec.delivery, validate_tasks=validate_tasks, launcher_name=spec.train.launcher
        )
        drift = DriftOperator(task_id="drift", delivery=spec.delivery, watch_task="watch")
        # beside the publication, which takes half a minute less for it; before it where a contract may stop the window
        stops = stops_on_drift(spec)
        publish = PublishOperator(
            task_id="publish",
            delivery=spec.delivery,
            validate_tasks=validate_tasks,
            watch_task="watch" if stops else None,
        )
        watch >> ([drift, publish] if stops else drift)
        # all_done: a source that is away must not hide what was quarantined of another one
        alert = AlertOperator(
            task_id="alert", delivery=spec.delivery, validate_tasks=validate_tasks, trigger_rule="all_done"
        )
        for name, source in spec.sources.items():
            with TaskGroup(group_id=name):
                of: dict[str, Any] = {"delivery": spec.delivery, "source": name}
                waits: dict[str, Any] = {}
                if source.kafka:  # windows of a topic are frozen one by one, because each begins where another ended
                    longest = timedelta(hours=1, seconds=source.kafka.lateness + source.kafka.patience)
                    waits = {"max_active_tis_per_dag": 1, "execution_timeout": longest}
                ingest = IngestOperator(task_id="ingest", **of, **waits)
                # a large slice is read by a task for each of its parts; a small one is read by `ingest`, and the
                # scheduler skips `read` and `seal` without starting anything
                read = ReadPartOperator.partial(task_id="read", map_index_template="{{ part_name }}", **of).expand(
                    part=ingest.output
                )
                seal = SealOperator(task_id="seal", parts_task=f"{name}.ingest", **of)
                validate = ValidateOperator(
                    task_id="validate", trigger_rule="none_failed", ingest_task=f"{name}.ingest",
                    seal_task=f"{name}.seal", **of,
                )  # fmt: skip
                read >> seal >> validate >> [publish, alert, watch]
    globals()[dag.dag_id] = dag
