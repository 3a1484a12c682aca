"""The second half of `retrain`: a version in the registry, its bundle, its gate, and its candidacy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from operators.hooks import clients
from operators.support import candidate_asset, stage_errors, the_delivery, the_lake, unix_now
from operators.workload import WorkloadOperator
from tidegate.delivery import project_root
from tidegate.errors import GateFailed
from tidegate.handoff import Bundle, Dataset, Evaluated, GateReport, Optimised, Request, Trained

if TYPE_CHECKING:
    from tidegate.launch import Workload


class RegisterOperator(BaseOperator):
    """Registers the model as a version and publishes its bundle; the same request gives the same version."""

    ui_color = "#e1ecf7"

    def __init__(self, *, delivery: str, request_task: str, dataset_task: str, train_task: str, evaluate_task: str,
                 optimise_task: str, **kwargs: Any):  # fmt: skip
        super().__init__(**kwargs)
        self.delivery = delivery
        self.request_task = request_task
        self.dataset_task = dataset_task
        self.train_task = train_task
        self.evaluate_task = evaluate_task
        self.optimise_task = optimise_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the Bundle as JSON data."""
        from tidegate.registration import Parts, register

        pull = context["ti"].xcom_pull
        parts = Parts(
            delivery=the_delivery(self.delivery),
            request=Request.model_validate(pull(task_ids=self.request_task)),
            dataset=Dataset.model_validate(pull(task_ids=self.dataset_task)),
            trained=Trained.model_validate(pull(task_ids=self.train_task)),
            evaluated=Evaluated.model_validate(pull(task_ids=self.evaluate_task)),
            optimised=Optimised.model_validate(pull(task_ids=self.optimise_task)),
        )
        registry = clients.registry(clients.connection(clients.REGISTRY))
        with stage_errors():
            bundle, swept = register(parts, registry, the_lake(), project_root(), unix_now())
        if swept:
            self.log.warning("removed versions that were never registered whole: %s", ", ".join(map(str, swept)))
        self.log.info("%s is registered; bundle %s, digest %s", bundle.name, bundle.key, bundle.digest[:16])
        return bundle.model_dump(mode="json")


class GateOperator(WorkloadOperator):
    """Puts the candidate on its own server, without traffic, and holds it against the gate's limits there."""

    ui_color = "#f7f0c4"

    def __init__(self, *, bundle_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.bundle_task = bundle_task

    def workload(self, context: Any) -> Workload:
        """Deploy the candidate beside the champion and return the gate's load and quality run."""
        from tidegate.gate.task import GateTask
        from tidegate.launch import Workload

        delivery, lake = the_delivery(self.delivery), the_lake()
        bundle = Bundle.model_validate(context["ti"].xcom_pull(task_ids=self.bundle_task))
        server = clients.serving(clients.connection(clients.SERVING), lake, delivery.serve.server)
        endpoint = server.deploy(bundle)
        champion = clients.registry(clients.connection(clients.REGISTRY)).version_of(self.delivery, "champion")
        beside = (
            server.endpoints().get(f"{self.delivery}-v{champion}") if champion not in (None, bundle.version) else None
        )
        task = GateTask(bundle=bundle, endpoint=endpoint, champion=beside, gate=delivery.gate, lake=lake.url)
        name = f"gate-{bundle.name}-against-v{champion or 0}-try{context['ti'].try_number}"
        return Workload(name=name, module="tidegate.gate", environment="control", handoff=task.to_json(), nice=0)

    def finish(self, context: Any, handoff: str) -> GateReport:
        """Return the report of a candidate that passed; withdraw the server of one that did not and fail."""
        report = GateReport.model_validate_json(handoff)
        bundle = Bundle.model_validate(context["ti"].xcom_pull(task_ids=self.bundle_task))
        for line in report.table().splitlines():
            self.log.info("%s", line)
        self.log.info("%d requests in %.0f s; %s", report.requests, report.seconds, report.figures)
        clients.registry(clients.connection(clients.REGISTRY)).tag(
            self.delivery, bundle.version, {"gate": "passed" if report.passed else "failed"}
        )
        if not report.passed:
            server = the_delivery(self.delivery).serve.server
            clients.serving(clients.connection(clients.SERVING), the_lake(), server).retire(bundle.name)
            raise GateFailed(f"{bundle.name} missed its gate and gets no traffic\n{report.table()}")
        return report


class CandidateOperator(BaseOperator):
    """Names the version that passed its gate the candidate: this starts its rollout."""

    ui_color = "#c9ead1"

    def __init__(self, *, delivery: str, bundle_task: str, gate_task: str, **kwargs: Any):
        super().__init__(outlets=[candidate_asset(delivery)], **kwargs)
        self.delivery = delivery
        self.bundle_task = bundle_task
        self.gate_task = gate_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return and publish {version, request_id, metrics}."""
        bundle = Bundle.model_validate(context["ti"].xcom_pull(task_ids=self.bundle_task))
        report = GateReport.model_validate(context["ti"].xcom_pull(task_ids=self.gate_task))
        with stage_errors():
            clients.registry(clients.connection(clients.REGISTRY)).set_alias(self.delivery, "candidate", bundle.version)
        extra = {
            "version": bundle.version,
            "request_id": bundle.request.request_id,
            "metrics": dict(bundle.metrics),
            "gate": json.loads(report.to_json())["checks"],
        }
        event = context["outlet_events"][candidate_asset(self.delivery)]
        event.extra = extra
        event.add_partitions(bundle.name)  # one rollout for each candidate, whatever started this run
        return extra
