"""Watching the data: a window's statistics, its drift and skew against the champion, and what follows from them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from operators.hooks import clients
from operators.links import DATA_DOCS, DRIFT_REPORT, FACETS
from operators.support import drift_asset, resolve_window, stage_errors, the_delivery, the_lake
from operators.workload import WorkloadOperator
from tidegate.errors import DataError
from tidegate.handoff import Request, ValidatedSlice, Window
from tidegate.units import add_window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.delivery import Delivery
    from tidegate.handoff import Bundle
    from tidegate.lake import Lake
    from tidegate.launch import Workload
    from tidegate.validate.drift import Baseline, Distance, ServedSample, WatchedSource, WatchReport


class WatchOperator(WorkloadOperator):
    """Counts a window's slices and holds them against the champion's training data and the slices before.

    Publishes TFDV's statistics of each slice, Great Expectations' data docs and pages that show both. Its result names
    what lies beyond the contracts' limits.
    """

    ui_color = "#d5e8f0"
    operator_extra_links = (DRIFT_REPORT, FACETS, DATA_DOCS)

    def __init__(self, *, validate_tasks: list[str], **kwargs: Any):
        super().__init__(**kwargs)
        self.validate_tasks = validate_tasks

    def workload(self, context: Any) -> Workload:
        """Return the watching of what the window's validating tasks published, named after all that decides it."""
        from tidegate.launch import Workload
        from tidegate.validate.drift import WatchTask

        delivery, lake, window = the_delivery(self.delivery), the_lake(), resolve_window(context)
        pulled = context["ti"].xcom_pull(task_ids=self.validate_tasks)
        slices = [ValidatedSlice.model_validate(item) for item in pulled]
        champion = _champion(delivery, lake)
        task = WatchTask(
            delivery=self.delivery,
            window=window,
            lake=lake.url,
            sources=[watched(delivery, each, champion, lake) for each in slices],
            served=_served(delivery, champion),
        )
        handoff = task.to_json()
        basis = hashlib.sha256(handoff.encode()).hexdigest()[:12]
        return Workload(
            name=f"watch-{self.delivery}-{window.id}-{basis}",
            module="tidegate.validate",
            environment="validate",
            handoff=handoff,
        )

    def finish(self, context: Any, handoff: str) -> WatchReport:
        """Return the report, and say in the log what lies beyond its limits and what could not be compared."""
        from tidegate.validate.drift import WatchReport, table

        report = WatchReport.model_validate_json(handoff)
        if report.breaches:
            self.log.warning("DRIFT: %d of %d distances are beyond their limits", len(report.breaches), report.compared)
            for line in table(report.breaches).splitlines():
                self.log.warning("%s", line)
        else:
            self.log.info("all %d distances are within their limits", report.compared)
        for note in report.notes:
            self.log.info("%s", note)
        return report


class DriftOperator(BaseOperator):
    """Raises the drift's asset event, and asks for a new model where a limit says so; skips a window without breaches.

    A request is named after source and window, so that the same drift is trained once however often it is seen.
    """

    ui_color = "#f7e3d7"

    def __init__(self, *, delivery: str, watch_task: str, **kwargs: Any):
        super().__init__(outlets=[drift_asset(delivery)], **kwargs)
        self.delivery = delivery
        self.watch_task = watch_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return and publish the breaches, in words and as figures, with the requests that were sent."""
        from tidegate.validate.drift import WatchReport

        report = WatchReport.model_validate(context["ti"].xcom_pull(task_ids=self.watch_task))
        if not report.breaches:
            raise AirflowSkipException("every distance is within its limits")
        with stage_errors():
            sent = self._ask(the_delivery(self.delivery), report)
        told = {
            "window": report.window.id,
            "breaches": [each.model_dump(mode="json") for each in report.breaches],
            "said": [each.sentence() for each in report.breaches],
            "report": report.key,
            "requests": sent,
        }
        context["outlet_events"][drift_asset(self.delivery)].extra = told
        return told

    def _ask(self, delivery: Delivery, report: WatchReport) -> list[str]:
        wanted = requests_of(delivery, report)
        if not wanted:
            return []
        reason = refusal(delivery, report.window, _champion(delivery, the_lake()))
        if reason is not None:
            self.log.warning("no new model is asked for: %s", reason)
            return []
        from tidegate.clients.requests import send

        assert delivery.retrain.kafka is not None  # noqa: S101 - refusal() says so
        topic = delivery.retrain.kafka
        ledger = clients.ledger(clients.connection(clients.LEDGER))
        for request in wanted:
            if ledger.request(self.delivery, request.request_id) is not None:
                self.log.info("request %s was made before", request.request_id)
                continue
            place = send(request, clients.kafka_bootstrap(clients.connection(topic.connection)), topic.topic)
            self.log.warning("ASKED for a new model: %s at %s: %s", request.request_id, place, request.reason)
        return [request.request_id for request in wanted]


def requests_of(delivery: Delivery, report: WatchReport) -> list[Request]:
    """Return the requests that a report's breaches ask for: one for each source of the window, of a stable name."""
    by_source: dict[str, list[Distance]] = {}
    for each in report.breaches:
        if each.severity == "retrain":
            by_source.setdefault(each.source, []).append(each)
    end = report.window.end
    return [
        Request(
            request_id=f"drift-{source[:40]}-{report.window.id}",
            delivery=delivery.delivery,
            window=Window(start=add_window(end, delivery.train_on, -1), end=end),
            reason="; ".join(each.sentence() for each in breaches)[:500],
            source="drift",
        )
        for source, breaches in sorted(by_source.items())
    ]


def refusal(delivery: Delivery, window: Window, champion: Bundle | None) -> str | None:
    """Return why no new model is asked for although a limit says so, or None.

    A window that ends before the champion's training data do is old news: a backfill of it must not start a training.
    """
    if not delivery.retrain.on_drift:
        return "the delivery does not say retrain: {on_drift: true}"
    if champion is None:
        return "there is no champion that could be out of date"
    trained = champion.dataset.window
    if window.end <= trained.end:
        return f"the window {window} is not newer than what {champion.name} was trained on, {trained}"
    return None


def watched(delivery: Delivery, slice: ValidatedSlice, champion: Bundle | None, lake: Lake) -> WatchedSource:
    """Return what is to be known of one source: its slice, its limits, and all there is to hold it against."""
    from tidegate.contract import load_contract
    from tidegate.contract.targets.great_expectations import compile_contract as suite_of
    from tidegate.contract.targets.tfdv import compile_contract as schema_of
    from tidegate.validate.drift import WatchedSource, limits_of

    source = slice.slice.source
    contract = load_contract(delivery.sources[source].contract)
    return WatchedSource(
        source=source,
        contract=f"{contract.name} {contract.version}",
        key=slice.key,
        digest=slice.digest,
        raw_key=slice.slice.key,
        raw_digest=slice.slice.digest,
        clean=slice.clean,
        quarantined=slice.quarantined,
        event_time=contract.event_time.name if contract.event_time else None,
        limits=limits_of(contract.columns),
        baselines=baselines(delivery, source, slice.slice.window, champion, lake),
        tfdv_schema=str(schema_of(contract)),
        suite=suite_of(contract),
    )


def baselines(delivery: Delivery, source: str, window: Window, champion: Bundle | None, lake: Lake) -> list[Baseline]:
    """Return the champion's slices of this source, and the slice before; what is not published is left out."""
    from tidegate import keys
    from tidegate.validate.drift import Baseline

    found = []
    if champion is not None:
        parts = _parts(champion.dataset.slices, delivery.delivery, source)
        if parts:
            found.append(Baseline(kind="champion", name=f"champion {champion.name}", parts=parts))
    start = add_window(window.start, delivery.window, -1)
    before = Window(start=start, end=window.start)
    manifest = lake.manifest(keys.validated(delivery.delivery, source, before))
    if manifest is not None:
        name = f"slice of {before.start:%Y-%m-%d %H:%M}".removesuffix(" 00:00")
        found.append(Baseline(kind="previous", name=name, parts=[(manifest["key"], manifest["digest"])]))
    return found


def _parts(slices: Mapping[str, str], delivery: str, source: str) -> list[tuple[str, str]]:
    from tidegate import keys

    named = [(name.partition("/"), digest) for name, digest in sorted(slices.items())]
    return [
        (keys.validated(delivery, source, keys.window_of(window)), digest)
        for (of, _, window), digest in named
        if of == source
    ]


def _champion(delivery: Delivery, lake: Lake) -> Bundle | None:
    """Return the champion's bundle, or None where there is none, or it has been withdrawn."""
    from tidegate.bundle import load
    from tidegate.clients.registry import CHAMPION

    version = clients.registry(clients.connection(clients.REGISTRY)).version_of(delivery.delivery, CHAMPION)
    if version is None:
        return None
    try:
        return load(lake, delivery.delivery, version)
    except DataError:
        return None


def _served(delivery: Delivery, champion: Bundle | None) -> ServedSample | None:
    """Return where the champion's server keeps its sample, or None where it keeps none."""
    from tidegate.contract import load_contract
    from tidegate.served import FOLDER
    from tidegate.validate.drift import Baseline, ServedSample, limits_of

    if champion is None or not delivery.share_sampled:
        return None
    folder = Path(clients.connection(clients.SERVING).extra_dejson["models"]) / champion.name
    dataset = champion.dataset
    features = [feature.name for feature in dataset.features]
    contracts = [load_contract(name) for name in sorted({each.contract for each in delivery.sources.values()})]
    limits = [limit for contract in contracts for limit in limits_of(contract.columns, "skew")]
    return ServedSample(
        folder=str(folder),
        size=sum(path.stat().st_size for path in (folder / FOLDER).glob("*.jsonl")),
        features=features,
        limits=[limit for limit in limits if limit.feature in features],
        baseline=Baseline(
            kind="champion", name=f"training data of {champion.name}", parts=[(dataset.key, dataset.digest)]
        ),
    )
