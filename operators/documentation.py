"""The documentation pages and forms of the DAGs, in the words of the design."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

INGEST = """
### ingest: one window of every source, validated
For each source of **{delivery}**: read the window's rows into a *slice* (immutable, replayable, published by one
manifest), then split it by its *contract*: clean rows, and quarantined rows with reason and source position.
`read = clean + quarantined` is checked. A source that is away is retried; nothing half-written is ever visible.
A large slice goes by parts: *ingest* plans them, *read* runs once for each, *seal* puts them together without copying;
for small ones *ingest* reads all, and these two are skipped. Clear one *read* to try that part again.
*alert* raises the asset event `{delivery}_quarantine` where rows were quarantined, and is skipped where all are clean.
*watch* holds the window against what the champion was trained on and against the window before; its page links to the
reports. *drift* raises `{delivery}_drift`, and asks for a new model, where a contract's limit says so.
`tidegate quarantine list {delivery}` at a terminal says which rows and why, `replay` judges them by a newer contract.

**Run it by hand**: fill in `window_start` and `window_end` (UTC). **Backfill**: choose *Backfill* and a range of dates.
`refresh` reads the source anew although the slice exists: other bytes become a new revision.
"""

REQUESTS = """
### requests: asks to retrain, from Kafka
A watcher in the triggerer turns each message of the topic into an asset event; this DAG drains the events (and every
5 minutes sweeps for what a burst left behind), drops duplicates by `request_id`, and starts one run of
`retrain__{delivery}` for each new request.

A message: `{{"request_id": "week-7", "window": {{"start": "2013-01-01", "end": "2013-04-01"}}, "reason": "weekly"}}`.
Without a window, the newest published span of `train_on` is used.
"""

RETRAIN = """
### retrain: from a request to a candidate
dataset (the delivery's SQL over validated slices) -> gang of workers (MultiWorkerMirroredStrategy) -> *evaluate*
(figures on the held-out rows by group and against the champion, with pictures in MLflow) beside *optimise* (the
artefact that serves, with parity) -> a version in the registry with its bundle -> gate on its own server ->
**candidate**.

**Run it by hand**: fill in the window, and `model` if another declared function than the delivery's is wanted.
The same `request_id` is trained once: a second run finds what the first published.
"""

ROLLOUT = """
### rollout: a candidate to production, in stages
lease -> deploy -> for each stage: *shift* the weight, then *watch* (pass, hold or fail, after every scrape) -> *bake*
at 100% with the champion still loaded -> promote. On a breach the candidate's weight goes to 0 at detection, inside the
watching trigger; then `rollback__{delivery}` runs and this run ends failed. No data never passes.

**Run it by hand**: give the `version` of a registered bundle that passed its gate. At a terminal:
`tidegate rollouts show {delivery} --watch`.
"""

ROLLBACK = """
### rollback: the champion takes all traffic
Started by a rollout that failed, by an alert about a candidate, or by a person with one click and no form to fill in.
Moves all traffic to the champion, verifies the split at the proxy, retires the candidate's server, drops its alias and
says what happened.
Idempotent: a second run says that nothing is left to do.
With no rollout under way it goes back to the version before the champion.
"""

RECONCILE = """
### reconcile: every minute, what is should be what is on record
Expired leases give the traffic back to the champion; a split at the proxy that differs from the record is set right;
servers beyond the bundles to keep are retired. Each thing done is an event of the log. Gangs of pods whose task is gone
are removed, two minutes after they were started at the earliest.
"""


def window_params() -> dict[str, Any]:
    """Return the form of a run on a window of time."""
    return {
        "window_start": Param(
            None, type=["null", "string"], format="date", title="Window start (UTC)", description="empty: the run's own"
        ),
        "window_end": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Window end (UTC, exclusive)",
            description="the day after",
        ),
    }


def refresh_param() -> dict[str, Any]:
    """Return the form's field that reads sources anew."""
    return {
        "refresh": Param(False, type="boolean", title="Refresh", description="read the source although a slice exists")
    }


def request_params(models: list[str]) -> dict[str, Any]:
    """Return the form of a request to retrain."""
    return {
        **window_params(),
        "model": Param(models[0], type="string", enum=models, title="Model", description="declared by the delivery"),
        "request_id": Param(None, type=["null", "string"], title="Request id", description="empty: made from the run"),
        "reason": Param("", type="string", title="Reason", description="for the record"),
    }


def version_param() -> dict[str, Any]:
    """Return the form of a rollout."""
    return {
        "version": Param(
            None, type=["null", "integer"], minimum=1, title="Version", description="empty: the registry's candidate"
        )
    }


def rollback_params() -> dict[str, Any]:
    """Return the form of a rollback: all of it optional."""
    return {
        "reason": Param("a person asked for it", type="string", title="Reason", description="for the record"),
        "rollout_id": Param(None, type=["null", "string"], title="Rollout", description="set by a rollout that failed"),
        "candidate": Param(
            None, type=["null", "string"], title="Candidate", description="set by an alert: only if it is on trial now"
        ),
    }
