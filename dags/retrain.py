"""`retrain__<delivery>`: request -> dataset -> gang training -> evaluate, optimise -> register -> gate -> candidate."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, PartitionedAssetTimetable

from operators.deliveries import valid_deliveries
from operators.documentation import RETRAIN, request_params
from operators.evaluate import EvaluateOperator
from operators.optimise import OptimiseOperator
from operators.register import CandidateOperator, GateOperator, RegisterOperator
from operators.support import request_asset
from operators.train import DatasetOperator, RequestOperator, TrainOperator
from tidegate.units import utc

for spec in valid_deliveries():
    name = spec.delivery
    with DAG(
        dag_id=f"retrain__{name}",
        schedule=PartitionedAssetTimetable(assets=request_asset(name)),
        start_date=utc(spec.start),
        catchup=False,
        max_active_runs=1,
        tags=["tidegate", name, "retrain"],
        doc_md=RETRAIN.format(delivery=name),
        params=request_params([spec.train.model, *spec.train.alternatives]),
        default_args={
            "retries": 2,
            "retry_delay": timedelta(seconds=10),
            "retry_exponential_backoff": True,
            "execution_timeout": timedelta(hours=1),
        },
    ) as dag:
        request = RequestOperator(task_id="request", delivery=name)
        dataset = DatasetOperator(task_id="dataset", delivery=name, request_task="request")
        train = TrainOperator(
            task_id="train",
            delivery=name,
            request_task="request",
            dataset_task="dataset",
            launcher_name=spec.train.launcher,
            connection=spec.train.pods.connection if spec.train.pods else None,
            timeout_s=spec.train.timeout,
        )
        evaluate = EvaluateOperator(task_id="evaluate", delivery=name, train_task="train", dataset_task="dataset")
        optimise = OptimiseOperator(task_id="optimise", delivery=name, train_task="train", dataset_task="dataset")
        register = RegisterOperator(
            task_id="register",
            delivery=name,
            request_task="request",
            dataset_task="dataset",
            train_task="train",
            evaluate_task="evaluate",
            optimise_task="optimise",
        )
        gate = GateOperator(task_id="gate", delivery=name, bundle_task="register")
        candidate = CandidateOperator(task_id="candidate", delivery=name, bundle_task="register", gate_task="gate")
        request >> dataset >> train >> [evaluate, optimise] >> register >> gate >> candidate
    globals()[dag.dag_id] = dag
