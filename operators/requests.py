"""Requests to retrain: drained from the watcher's events, each made one partition, each exactly once.

The scheduler starts a run per *first* event of a burst and leaves the others waiting, so a run reads every event
above its watermark, with an overlap, and drops what it has seen. The watermark moves in a later task, since the
partitions are on record only when the draining task has succeeded.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowSkipException
from pydantic import ValidationError

from operators.hooks import clients
from operators.support import request_asset, stage_errors, the_delivery, the_lake
from tidegate.errors import SpecError
from tidegate.handoff import Request, Window
from tidegate.units import add_window, utc

if TYPE_CHECKING:
    from tidegate.delivery import Delivery

OVERLAP = timedelta(minutes=10)
WATERMARK = "watermark"


class DrainRequestsOperator(BaseOperator):
    """Reads the messages above the watermark and emits one partition for each new request."""

    ui_color = "#fdf1d6"

    def __init__(self, *, delivery: str, inbox: Asset, **kwargs: Any):
        super().__init__(inlets=[inbox], outlets=[request_asset(delivery)], **kwargs)
        self.delivery = delivery
        self.inbox = inbox

    def execute(self, context: Any) -> dict[str, Any]:
        """Return {requests, watermark}: what was emitted and how far was read."""
        store = context["asset_state_store"][self.inbox]
        watermark = store.get(WATERMARK)
        events = context["inlet_events"][self.inbox]
        if watermark:
            events = events.after((utc(watermark) - OVERLAP).isoformat())
        delivery, newest = the_delivery(self.delivery), watermark
        with stage_errors():
            ledger = clients.ledger(clients.connection(clients.LEDGER))
            for event in events:
                newest = max(newest or "", event.timestamp.astimezone(UTC).isoformat())
                request = self._parse(delivery, (event.extra or {}).get("payload"))
                if request:
                    ledger.claim_request(self.delivery, request.request_id, request.model_dump(mode="json"))
            emitted = ledger.open_requests(self.delivery)
        if not emitted:  # an outlet's event without a partition would say that something was asked
            raise AirflowSkipException("no new request")
        context["outlet_events"][request_asset(self.delivery)].add_partitions(emitted)
        self.log.info("%d request(s): %s", len(emitted), ", ".join(emitted))
        return {"requests": emitted, "watermark": newest}

    def _parse(self, delivery: Delivery, message: dict[str, Any] | None) -> Request | None:
        """Return the request of one message; a malformed one is said and dropped, for it can never be trained."""
        if not message:
            return None
        where = f"{message.get('topic')}/{message.get('partition')}@{message.get('offset')}"
        try:
            return parse_request(delivery, message, default_window(delivery, datetime.now(UTC)))
        except (ValueError, ValidationError, SpecError) as error:
            self.log.error(
                "REFUSED request at %s: %s; send it again, corrected: %s", where, error, message.get("value")
            )
            return None


def parse_request(delivery: Delivery, message: dict[str, Any], fallback: Window | None) -> Request:
    """Return the request a Kafka message holds.

    Raises:
        ValueError: the message is not a JSON object, has unknown fields, or names an undeclared model.
    """
    body = json.loads(message["value"])
    if not isinstance(body, dict):
        raise ValueError(f"a request is a JSON object, this is a {type(body).__name__}")
    body.setdefault("request_id", f"{message['topic']}-{message['partition']}-{message['offset']}")
    body.setdefault("window", fallback)
    asked_by = "drift" if body.get("source") == "drift" else "kafka"
    request = Request.model_validate({**body, "delivery": delivery.delivery, "source": asked_by})
    delivery.model_of(request.model)
    return request


def default_window(delivery: Delivery, now: datetime) -> Window | None:
    """Return the newest `train_on` span whose slices of every windowed source are published, or None."""
    from tidegate import keys

    lake = the_lake()
    windowed = [name for name, source in delivery.sources.items() if source.is_windowed]
    end, start = None, utc(delivery.start)
    while start < now:
        window = Window(start=start, end=add_window(start, delivery.window))
        if all(lake.manifest(keys.validated(delivery.delivery, name, window)) for name in windowed):
            end = window.end
        start = window.end
    return Window(start=add_window(end, delivery.train_on, -1), end=end) if end else None


class SettleRequestsOperator(BaseOperator):
    """Marks what was emitted as handed on and moves the watermark, once the emission is on record."""

    ui_color = "#eeeeee"

    def __init__(self, *, delivery: str, inbox: Asset, drain_task: str, **kwargs: Any):
        super().__init__(inlets=[inbox], **kwargs)
        self.delivery = delivery
        self.inbox = inbox
        self.drain_task = drain_task

    def execute(self, context: Any) -> None:
        """Record the drained requests as handed on, then move the watermark."""
        drained = context["ti"].xcom_pull(task_ids=self.drain_task)
        with stage_errors():
            ledger = clients.ledger(clients.connection(clients.LEDGER))
            for request_id in drained["requests"]:
                ledger.hand_on_request(self.delivery, request_id)
        if drained["watermark"]:
            context["asset_state_store"][self.inbox].set(WATERMARK, drained["watermark"])
