"""The ingest and validate stages: one source, one window; then the window's publication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from operators.hooks import clients
from operators.support import (
    quarantine_alias,
    quarantine_asset,
    resolve_window,
    slices_asset,
    stage_errors,
    the_delivery,
    the_lake,
)

if TYPE_CHECKING:
    from tidegate.delivery import Delivery
    from tidegate.handoff import Slice, ValidatedSlice, Window


class IngestOperator(BaseOperator):
    """Reads one source's rows of the run's window into a published slice.

    A slice that is already published is returned as it is; the form's `refresh` reads the source anew.
    """

    template_fields: Sequence[str] = ()
    ui_color = "#d7ecf4"

    def __init__(self, *, delivery: str, source: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.source = source

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the Slice as JSON data."""
        with stage_errors():
            found = read_slice(
                the_delivery(self.delivery),
                self.source,
                resolve_window(context),
                bool(context["params"].get("refresh")),
            )
        self.log.info("slice %s %s: %d rows, digest %s", self.source, found.window, found.rows, found.digest[:16])
        return found.model_dump(mode="json")


def read_slice(delivery: Delivery, source: str, window: Window, refresh: bool) -> Slice:
    """Read one source's window by the connection its delivery names."""
    from tidegate.contract import load_contract
    from tidegate.ingest import hdfs, kafka, postgres

    spec = delivery.sources[source]
    common: dict[str, Any] = {
        "delivery": delivery.delivery,
        "source": source,
        "contract": load_contract(spec.contract),
        "window": window,
        "lake": the_lake(),
        "refresh": refresh,
    }
    if spec.postgres:
        conn = clients.connection(spec.postgres.connection)
        return postgres.read(spec=spec.postgres, dsn=clients.postgres_dsn(conn), **common)
    if spec.kafka:
        conn = clients.connection(spec.kafka.connection)
        return kafka.read(spec=spec.kafka, bootstrap=clients.kafka_bootstrap(conn), **common)
    assert spec.hdfs is not None  # noqa: S101 - Source allows exactly one place
    conn = clients.connection(spec.hdfs.connection)
    return hdfs.read(spec=spec.hdfs, host=conn.host, port=conn.port, **common)


class ValidateOperator(BaseOperator):
    """Splits a slice by its contract into clean rows and quarantined rows, and raises the alert for the latter."""

    ui_color = "#d7f4e3"

    def __init__(self, *, delivery: str, source: str, slice_task: str, **kwargs: Any):
        super().__init__(outlets=[quarantine_alias(delivery)], **kwargs)
        self.delivery = delivery
        self.source = source
        self.slice_task = slice_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the ValidatedSlice as JSON data."""
        from tidegate.contract import load_contract
        from tidegate.handoff import Slice
        from tidegate.validate import validate

        found = Slice.model_validate(context["ti"].xcom_pull(task_ids=self.slice_task))
        with stage_errors():
            contract = load_contract(the_delivery(self.delivery).sources[self.source].contract)
            validated = validate(found, contract, the_lake())
            clients.ledger(clients.connection(clients.LEDGER)).record_slice(validated)
        self._alert(context, validated)
        return validated.model_dump(mode="json")

    def _alert(self, context: Any, validated: ValidatedSlice) -> None:
        """Say on the log and as an asset event what was quarantined; the ledger's counts feed the metric."""
        summary = {
            "source": self.source,
            "window": validated.slice.window.id,
            "read": validated.slice.rows,
            "quarantined": validated.quarantined,
            "reasons": dict(validated.reasons),
        }
        if validated.quarantined:
            alert = context["outlet_events"][quarantine_alias(self.delivery)]
            alert.add(quarantine_asset(self.delivery), extra=summary)
            self.log.warning("QUARANTINED %d of %d rows: %s", validated.quarantined, validated.slice.rows, summary)
        else:
            self.log.info("all %d rows are clean", validated.slice.rows)


class PublishOperator(BaseOperator):
    """Says that every source of the window is validated: the asset event that other teams may schedule on."""

    ui_color = "#e9e3f5"

    def __init__(self, *, delivery: str, validate_tasks: list[str], **kwargs: Any):
        super().__init__(outlets=[slices_asset(delivery)], **kwargs)
        self.delivery = delivery
        self.validate_tasks = validate_tasks

    def execute(self, context: Any) -> dict[str, Any]:
        """Return and publish the window's rows per source: read, clean, quarantined, reasons, digest."""
        from tidegate.handoff import ValidatedSlice

        pulled = context["ti"].xcom_pull(task_ids=self.validate_tasks)
        validated = [ValidatedSlice.model_validate(item) for item in pulled]
        summary: dict[str, Any] = {
            v.slice.source: {
                "read": v.slice.rows,
                "clean": v.clean,
                "quarantined": v.quarantined,
                "reasons": dict(v.reasons),
                "digest": v.digest,
            }
            for v in validated
        }
        window = validated[0].slice.window.id
        context["outlet_events"][slices_asset(self.delivery)].extra = {"window": window, "sources": summary}
        for source, counts in summary.items():
            self.log.info("%s: %s", source, counts)
        return {"window": window, "sources": summary}
