"""Prometheus rules of a delivery, generated from its rollout's limits: errors and p99 of champion and candidate.

Measured at the proxy: Envoy's counters per cluster, which has the version's name. Which version is champion, which
candidate, the guard says (`tidegate_traffic_role`): while it is silent, none of these alerts fires but GuardSilent.

An error alert needs three things at once: the share above the limit over a longer window, the same over a shorter one
(so that it ends soon after the cause does), and enough requests and failures to mean anything. Source: burn-rate alerts
on several windows, Google's SRE Workbook, chapter 5, https://sre.google/workbook/alerting-on-slos/; the burn rate is 1,
because a rollout's limit is a line that must not be crossed, not a month's budget. A counter's first sample is lost to
`increase()`: a 5xx counter does not exist before the first failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tidegate.delivery import Delivery

REQUESTS = 50
"""Fewer requests in the longer window say nothing about errors."""
FAILURES = 5
"""Fewer failures in the longer window wake nobody."""
REQUESTS_P99 = 200
"""Fewer requests have no 99th percentile worth the name: it would be their slowest one or two."""
ACTION = "rollback"
"""The label `action` of alerts that start `rollback__<delivery>` by themselves."""

_HEADER = "# Generated from delivery {}: changes made here are lost. Who is champion or candidate, the guard says.\n"
_MARK = "# Generated from delivery "
_REMEDY = {
    "champion": "See what changed, in the log of its server and in the events of {0}; "
    "to go back to the version before it, trigger rollback__{0}.",
    "candidate": "rollback__{0} is started by this alert; see in Airflow that it ended, "
    "and why the rollout's own watch did not act first.",
}


@dataclass(frozen=True)
class _Pace:
    """One speed of an alert."""

    long: str
    short: str
    severity: str
    suffix: str = ""


_FAST = _Pace("5m", "1m", "critical")
_SLOW = _Pace("1h", "5m", "warning", "Slowly")  # few requests, or a share that swings about the limit
_PERSISTS = "15s"  # a rollout's own watch acts within seconds, and goes first


def rules(delivery: Delivery) -> dict[str, Any]:
    """Return one delivery's rules, as a Prometheus rule file holds them: what is measured, then alerts on it.

    Labels of its alerts: severity (critical, warning), delivery, version, role, and `action: rollback` on those about a
    candidate. Annotations: summary (a sentence), value, limit, remedy.

    Source: https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
    """
    measured = [
        record
        for window in ("1m", "5m", "1h")
        for record in (
            _record(delivery, f"requests:increase{window}", _per_version(delivery, "completed", window)),
            _record(delivery, f"failures:increase{window}", _per_version(delivery, "xx", window)),
        )
    ]
    measured += [
        _record(
            delivery,
            f"p99_seconds:increase{window}",
            f"histogram_quantile(0.99, {_per_version(delivery, 'time_bucket', window)}) / 1000",
        )
        for window in ("1m", "5m")
    ]
    alerts = [
        _errors(delivery, "candidate", _FAST),
        _p99(delivery, "candidate"),
        _errors(delivery, "champion", _FAST),
        _errors(delivery, "champion", _SLOW),
        _p99(delivery, "champion"),
        _without_figures(delivery),
    ]
    return {"groups": [{"name": f"tidegate-{delivery.delivery}", "interval": "5s", "rules": [*measured, *alerts]}]}


def write(folder: Path, deliveries: Iterable[Delivery]) -> list[Path]:
    """Write one rule file per delivery, `<delivery>.yaml`; generated files of deliveries that are gone are removed.

    Args:
        folder: made if need be; files in it that were not generated are left alone.
        deliveries: all of them.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for delivery in deliveries:
        path = folder / f"{delivery.delivery}.yaml"
        path.write_text(text(delivery), encoding="utf-8")
        written.append(path)
    for path in folder.glob("*.yaml"):
        if path not in written and path.read_text(encoding="utf-8").startswith(_MARK):
            path.unlink()
    return written


def text(delivery: Delivery) -> str:
    """Return one delivery's rule file."""
    return _HEADER.format(delivery.delivery) + yaml.dump(rules(delivery), Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes expressions of several lines as people would."""


_Dumper.add_representer(
    str,
    lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None),
)


def _errors(delivery: Delivery, role: str, pace: _Pace) -> dict[str, Any]:
    limit = delivery.rollout.limits.errors
    requests, failures = (_measured(delivery, what, pace.long) for what in ("requests", "failures"))
    lately = " / ".join(_measured(delivery, what, pace.short) for what in ("failures", "requests"))
    expr = (
        f"{failures} / {requests} > {limit:g}\n"
        f"and {lately} > {limit:g}\n"
        f"and {requests} >= {REQUESTS}\n"
        f"and {failures} >= {FAILURES}\n"
    )
    says = f"fails {{{{ $value | humanizePercentage }}}} of its requests over {pace.long}, above {100 * limit:g}%"
    name = f"{role.title()}Errors{pace.suffix}"
    return _alert(delivery, name, role, pace.severity, expr, says, f"{100 * limit:g}%")


def _p99(delivery: Delivery, role: str) -> dict[str, Any]:
    limit, pace = delivery.rollout.limits.p99, _FAST
    expr = (
        f"{_measured(delivery, 'p99_seconds', pace.long)} > {limit:g}\n"
        f"and {_measured(delivery, 'p99_seconds', pace.short)} > {limit:g}\n"
        f"and {_measured(delivery, 'requests', pace.long)} >= {REQUESTS_P99}\n"
    )
    says = f"answers 1 in 100 requests after {{{{ $value | humanizeDuration }}}} over {pace.long}, above {limit:g} s"
    return _alert(delivery, f"{role.title()}P99", role, pace.severity, expr, says, f"{limit:g} s")


def _without_figures(delivery: Delivery) -> dict[str, Any]:
    expr = (
        f'max by (delivery, version) (tidegate_traffic_weight{{delivery="{delivery.delivery}"}}) > 0\n'
        f"unless on (version) {_versioned(delivery, 'envoy_cluster_upstream_rq_completed')}\n"
    )
    says = "has {{ $value }}% of the traffic, and the proxy gives no figures of it"
    made = _alert(delivery, "ChampionWithoutFigures", "champion", "critical", expr, says, "some figures")
    made["annotations"]["remedy"] = (
        "Nothing can be judged, so no rollout passes. See whether Prometheus scrapes the proxy (its page Targets), "
        "and whether the proxy knows the version's cluster."
    )
    return made


def _alert(delivery: Delivery, name: str, role: str, severity: str, expr: str, says: str, limit: str) -> dict[str, Any]:
    action = {"action": ACTION} if role == "candidate" else {}
    of = f'max by (version) (tidegate_traffic_role{{delivery="{delivery.delivery}",role="{role}"}})'
    return {
        "alert": name,
        "expr": f"{expr}and on (version) {of}\n",
        "for": _PERSISTS,
        "labels": {"severity": severity, "delivery": delivery.delivery, "role": role, **action},
        "annotations": {
            "summary": f"{role} {{{{ $labels.version }}}} of {delivery.delivery} {says}",
            "value": "{{ $value }}",
            "limit": limit,
            "remedy": _REMEDY[role].format(delivery.delivery),
        },
    }


def _record(delivery: Delivery, what: str, expr: str) -> dict[str, Any]:
    return {"record": f"tidegate:{what}", "expr": expr, "labels": {"delivery": delivery.delivery}}


def _measured(delivery: Delivery, what: str, window: str) -> str:
    return f'tidegate:{what}:increase{window}{{delivery="{delivery.delivery}"}}'


def _per_version(delivery: Delivery, what: str, window: str) -> str:
    by = "version, le" if what == "time_bucket" else "version"
    failed = ',envoy_response_code_class="5"' if what == "xx" else ""
    vector = _versioned(delivery, f"envoy_cluster_upstream_rq_{what}", failed, window)
    return f"sum by ({by}) ({vector})"


def _versioned(delivery: Delivery, metric: str, label: str = "", window: str = "") -> str:
    """Return a selector of all versions of a delivery, each with the label that the guard gives them."""
    vector = f'{metric}{{envoy_cluster_name=~"{delivery.delivery}-v[0-9]+"{label}}}'
    vector = f"increase({vector}[{window}])" if window else vector
    return f'label_replace({vector}, "version", "$1", "envoy_cluster_name", "(.+)")'
