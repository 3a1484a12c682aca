"""The ingest and validate stages: one source, one window; then the window's publication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from operators.hooks import clients
from operators.support import (
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
    from tidegate.ingest.slices import Reading, Target


SLICE = "slice"
"""XCom in which the ingest task hands on a slice that it read itself."""


class IngestOperator(BaseOperator):
    """Freezes what one source has for the run's window, and reads it into a published slice.

    A slice that is already published is returned as it is; the form's `refresh` reads the source anew. A large one is
    only planned: its parts, which are the task's result, are read by one mapped task each, and then sealed.
    """

    template_fields: Sequence[str] = ()
    ui_color = "#d7ecf4"

    def __init__(self, *, delivery: str, source: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.source = source

    def execute(self, context: Any) -> list[dict[str, Any]]:
        """Return the parts to be read by other tasks, as JSON data; none where the slice is read, and handed on."""
        from tidegate.handoff import Slice
        from tidegate.ingest.parts import begin

        with stage_errors():
            target, reading = source_of(the_delivery(self.delivery), self.source, resolve_window(context))
            found = begin(target, reading, refresh=bool(context["params"].get("refresh")))
        if isinstance(found, Slice):
            self.log.info("%s", _told(found))
            context["ti"].xcom_push(SLICE, found.model_dump(mode="json"))
            return []
        self.log.info("slice %s %s is read in %d parts", self.source, target.window, len(found))
        return [part.model_dump(mode="json") for part in found]


class ReadPartOperator(BaseOperator):
    """Reads one part of a large slice; a second attempt finds the part that the first one published."""

    template_fields: Sequence[str] = ("part",)
    ui_color = "#d7ecf4"

    def __init__(self, *, delivery: str, source: str, part: dict[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.source = source
        self.part = part

    def execute(self, context: Any) -> None:
        """Publish the part; what is known of it stands in the lake."""
        from tidegate.handoff import Part
        from tidegate.ingest.parts import read_part

        part = Part.model_validate(self.part)
        context["part_name"] = f"{part.number + 1} of {part.of}"
        with stage_errors():
            target, reading = source_of(the_delivery(self.delivery), self.source, resolve_window(context))
            rows = read_part(target, reading, part)
        self.log.info("part %s of slice %s %s: %d rows", context["part_name"], self.source, target.window, rows)


class SealOperator(BaseOperator):
    """Publishes a large slice once all its parts are read: its manifest lists their files, which are not copied."""

    ui_color = "#d7ecf4"

    def __init__(self, *, delivery: str, source: str, parts_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.source = source
        self.parts_task = parts_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the Slice as JSON data."""
        from tidegate.handoff import Part
        from tidegate.ingest.parts import seal

        parts = [Part.model_validate(part) for part in context["ti"].xcom_pull(task_ids=self.parts_task)]
        with stage_errors():
            target, _ = source_of(the_delivery(self.delivery), self.source, resolve_window(context))
            found = seal(target, parts[0].plan)
        self.log.info("%s, of %d parts", _told(found), len(parts))
        return found.model_dump(mode="json")


def _told(found: Slice) -> str:
    return f"slice {found.source} {found.window}: {found.rows} rows, digest {found.digest[:16]}"


def source_of(delivery: Delivery, source: str, window: Window) -> tuple[Target, Reading]:
    """Return where a source's slice goes and how it is read, by the connection its delivery names."""
    from tidegate.contract import load_contract
    from tidegate.ingest import hdfs, kafka, postgres
    from tidegate.ingest.slices import Target

    spec = delivery.sources[source]
    target = Target(delivery.delivery, source, load_contract(spec.contract), window, the_lake())
    common = vars(target)
    if spec.postgres:
        conn = clients.connection(spec.postgres.connection)
        return target, postgres.reading(spec=spec.postgres, dsn=clients.postgres_dsn(conn), **common)
    if spec.kafka:
        conn = clients.connection(spec.kafka.connection)
        registry = clients.schema_registry(spec.kafka.registry)
        return target, kafka.reading(
            spec=spec.kafka,
            bootstrap=clients.kafka_bootstrap(conn),
            secure=clients.kafka_security(conn),
            registry=registry,
            **common,
        )
    assert spec.hdfs is not None  # noqa: S101 - Source allows exactly one place
    conn = clients.connection(spec.hdfs.connection)
    webhdfs = conn.extra_dejson.get("webhdfs")
    return target, hdfs.reading(spec=spec.hdfs, host=conn.host, port=conn.port, webhdfs=webhdfs, **common)


class ValidateOperator(BaseOperator):
    """Splits a slice by its contract into clean rows and quarantined rows, which are counted and logged at once."""

    ui_color = "#d7f4e3"

    def __init__(self, *, delivery: str, source: str, ingest_task: str, seal_task: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.delivery = delivery
        self.source = source
        self.ingest_task = ingest_task
        self.seal_task = seal_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return the ValidatedSlice as JSON data."""
        from tidegate.contract import load_contract
        from tidegate.handoff import Slice
        from tidegate.validate import validate
        from tidegate.validate.reasons import told

        pulled = context["ti"].xcom_pull
        parts = pulled(task_ids=self.ingest_task)  # without any, what `seal` once left is of an earlier attempt
        given = pulled(task_ids=self.seal_task) if parts else pulled(task_ids=self.ingest_task, key=SLICE)
        found = Slice.model_validate(given)
        with stage_errors():
            contract = load_contract(the_delivery(self.delivery).sources[self.source].contract)
            validated = validate(found, contract, the_lake())
            clients.ledger(clients.connection(clients.LEDGER)).record_slice(validated)
        if validated.quarantined:
            said = told(validated.reasons, validated.examples)
            self.log.warning("QUARANTINED %d of %d rows: %s", validated.quarantined, validated.slice.rows, said)
        else:
            self.log.info("all %d rows are clean", validated.slice.rows)
        return validated.model_dump(mode="json")


class AlertOperator(BaseOperator):
    """Raises the quarantine's asset event for a window with quarantined rows, and skips one without.

    A task of its own, because an outlet's event exists only where its task succeeded. An asset alias in each validating
    task would say it sooner, but Airflow makes an alias's asset on first use, and of two tasks that do so at once it
    sets one to failed, although all its work was done.
    """

    ui_color = "#f7d7d7"

    def __init__(self, *, delivery: str, validate_tasks: list[str], **kwargs: Any):
        super().__init__(outlets=[quarantine_asset(delivery)], **kwargs)
        self.delivery = delivery
        self.validate_tasks = validate_tasks

    def execute(self, context: Any) -> dict[str, Any]:
        """Return and publish the window's quarantined rows: per source their number of those read, the reasons with
        their numbers, an example of each of the most frequent ones (position, value), and all that in words."""
        from tidegate.validate.reasons import told, top

        validated = _validated(context, self.validate_tasks)
        summary = _summary(validated)
        alarming = {}
        for one in (each for each in validated if each.quarantined):
            source, said = one.slice.source, told(one.reasons, one.examples)
            shown = [reason for reason, _ in top(one.reasons) if reason in one.examples]
            examples = {reason: one.examples[reason].model_dump() for reason in shown}
            alarming[source] = {**summary["sources"][source], "examples": examples, "said": said}
            self.log.warning("%s: %d of %d rows: %s", source, one.quarantined, one.slice.rows, said)
        if not alarming:
            raise AirflowSkipException("no row is quarantined")
        alert = {"window": summary["window"], "sources": alarming}
        context["outlet_events"][quarantine_asset(self.delivery)].extra = alert
        return alert


class PublishOperator(BaseOperator):
    """Says that every source of the window is validated: the asset event that other teams may schedule on.

    With a `watch_task` it fails where the data have drifted further than a contract's `stop`: nobody is told of them.
    """

    ui_color = "#e9e3f5"

    def __init__(self, *, delivery: str, validate_tasks: list[str], watch_task: str | None = None, **kwargs: Any):
        super().__init__(outlets=[slices_asset(delivery)], **kwargs)
        self.delivery = delivery
        self.validate_tasks = validate_tasks
        self.watch_task = watch_task

    def execute(self, context: Any) -> dict[str, Any]:
        """Return and publish the window's rows per source: read, clean, quarantined, reasons, digest."""
        if self.watch_task is not None:
            self._refuse_what_drifted(context["ti"].xcom_pull(task_ids=self.watch_task))
        summary = _summary(_validated(context, self.validate_tasks))
        context["outlet_events"][slices_asset(self.delivery)].extra = summary
        for source, counts in summary["sources"].items():
            self.log.info("%s: %s", source, counts)
        return summary

    def _refuse_what_drifted(self, result: Any) -> None:
        from tidegate.validate.drift import WatchReport

        report = WatchReport.model_validate(result)
        if report.stops:
            said = "; ".join(each.sentence() for each in report.stops)
            raise AirflowFailException(
                f"the window is not published: {said}. Look at the report of {self.watch_task}; then mend the source "
                f"and read it again (refresh), or raise the limit in the contract and clear {self.watch_task}"
            )


def _validated(context: Any, validate_tasks: list[str]) -> list[ValidatedSlice]:
    """Return what the tasks that have a result handed on."""
    from tidegate.handoff import ValidatedSlice

    pulled = context["ti"].xcom_pull(task_ids=validate_tasks)
    return [ValidatedSlice.model_validate(item) for item in pulled if item is not None]


def _summary(validated: list[ValidatedSlice]) -> dict[str, Any]:
    """Return {window, sources}: what each source read, kept and quarantined."""
    sources = {
        v.slice.source: {
            "read": v.slice.rows,
            "clean": v.clean,
            "quarantined": v.quarantined,
            "reasons": dict(v.reasons),
            "digest": v.digest,
        }
        for v in validated
    }
    return {"window": validated[0].slice.window.id if validated else None, "sources": sources}
