"""Runs a gate: a load on the candidate's own server, then the held-out rows through it and through the champion's."""

from __future__ import annotations

import asyncio
import io
import math
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pyarrow.parquet as pq

from tidegate.errors import DataError
from tidegate.gate import limits, load
from tidegate.lake import Lake
from tidegate.metrics import auc
from tidegate.served import OWN
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tidegate.clients.model_server import Endpoint
    from tidegate.gate.task import GateTask
    from tidegate.handoff import Feature, GateReport

WARM_UP = 1.0  # seconds at the full rate, not counted: connections, caches and the first pages of the graph
BATCH = 512  # rows of one request for the quality figures
_JSON = {"Content-Type": "application/json"}
_TIMEOUT = 30.0  # seconds for one such batch


def run(task: GateTask) -> GateReport:
    """Measure a candidate and hold it against its limits.

    Raises:
        DataError: the dataset has no held-out rows.
        SpecError: the delivery limits a quality figure that does not exist.
    """
    limits.known(task.gate)
    columns = held_out(Lake(task.lake), task)
    return asyncio.run(_run(task, columns))


def held_out(lake: Lake, task: GateTask) -> dict[str, list[Any]]:
    """Return the held-out rows as raw values by column, the label among them.

    Raises:
        DataError: there are none.
    """
    dataset = task.bundle.dataset
    table = pq.read_table(io.BytesIO(lake.read(dataset.key, "test.parquet")))
    if table.num_rows == 0:
        raise DataError(f"dataset {dataset.key} has 0 held-out rows, the gate needs some; widen the window")
    return {name: table.column(name).to_pylist() for name in table.column_names}


async def _run(task: GateTask, columns: Mapping[str, Sequence[Any]]) -> GateReport:
    begun = time.monotonic()
    features, labels = task.bundle.dataset.features, np.asarray(columns[task.bundle.dataset.label], dtype=np.float64)
    answers = await _load(task, features, columns)
    log(
        "load", requests=len(answers), p50_ms=limits.quantile_ms(answers, 0.5), p99_ms=limits.quantile_ms(answers, 0.99)
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT)) as session:
        own = await _quality(session, task.endpoint, features, columns, labels)
        theirs = None
        if task.champion is not None:
            theirs = await _champion(session, task.champion, columns, labels)
    figures = {"held_out_rows": float(labels.size), "positive_share": float(labels.mean())}
    if theirs is not None and theirs["auc"] is not None:
        figures["champion_auc"] = theirs["auc"]
    measured = limits.Measured(answers=answers, quality=own, champion=theirs, figures=figures)
    report = limits.report(task.bundle.version, task.gate, measured, time.monotonic() - begun)
    for line in report.table().splitlines():
        log("check", table=line)
    return report


async def _load(task: GateTask, features: Sequence[Feature], columns: Mapping[str, Sequence[Any]]) -> list[load.Answer]:
    """Send held-out rows, evenly spread over all of them, one row to a request."""
    total = len(columns[features[0].name])
    wanted = math.ceil(task.gate.rate * task.gate.duration)
    chosen = np.linspace(0, total - 1, min(wanted, total)).astype(int).tolist()
    spread = {feature.name: [columns[feature.name][row] for row in chosen] for feature in features}
    sent, url = task.endpoint.wire.bodies(features, spread, OWN), task.endpoint.predict_url
    await load.drive(sent, url, load.fixed(task.gate.rate, WARM_UP), lambda _: None)
    answers: list[load.Answer] = []
    await load.drive(sent, url, load.fixed(task.gate.rate, task.gate.duration), answers.append)
    return answers


async def _champion(
    session: aiohttp.ClientSession, endpoint: Endpoint, columns: Mapping[str, Sequence[Any]], labels: NDArray[Any]
) -> dict[str, float | None]:
    """Return the champion's figures; it is asked by its own inputs, which need not be the candidate's."""
    features = await _inputs(session, endpoint)
    if features is None:
        return {"auc": None}
    strange = [feature.name for feature in features if feature.name not in columns]
    if strange:
        log("no comparison", champion=endpoint.name, reason=f"the dataset has no column {', '.join(strange)}")
        return {"auc": None}
    return await _quality(session, endpoint, features, columns, labels)


async def _inputs(session: aiohttp.ClientSession, endpoint: Endpoint) -> list[Feature] | None:
    try:
        async with session.get(endpoint.describe_url) as response:
            response.raise_for_status()
            return endpoint.wire.inputs(await response.json())
    except (aiohttp.ClientError, TimeoutError) as error:
        log("no answer", server=endpoint.name, error=type(error).__name__)
        return None


async def _quality(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    features: Sequence[Feature],
    columns: Mapping[str, Sequence[Any]],
    labels: NDArray[Any],
) -> dict[str, float | None]:
    """Return a server's figures on all rows, or None for each if any row has no answer."""
    scores: list[float] = []
    for start in range(0, labels.size, BATCH):
        body = endpoint.wire.batch(features, columns, start, start + BATCH, OWN)
        found = await _predict(session, endpoint, body)
        if found is None:
            return {"auc": None}
        scores += found
    value = auc(labels, np.asarray(scores))
    log("quality", server=endpoint.name, rows=labels.size, auc=value)
    return {"auc": value}


async def _predict(session: aiohttp.ClientSession, endpoint: Endpoint, body: bytes) -> list[float] | None:
    try:
        async with session.post(endpoint.predict_url, data=body, headers=_JSON) as response:
            answer = await response.json(content_type=None)
            if response.status == 200:
                return endpoint.wire.predictions(answer).probabilities
            log("no answer", server=endpoint.name, status=response.status, error=str(answer.get("error"))[:300])
    except (aiohttp.ClientError, TimeoutError) as error:
        log("no answer", server=endpoint.name, error=type(error).__name__)
    return None
