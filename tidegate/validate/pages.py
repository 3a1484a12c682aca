"""What was seen of a window, as pages for people: drift at a glance with plots, and TFDV's facets.

The first needs neither scripts nor the internet. Facets is TFDV's own page and loads its scripts from GitHub and
cdnjs; no package registry has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from tidegate.validate.statistics import common

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tidegate.validate.drift import Distance, WatchReport
    from tidegate.validate.statistics import Statistics

_WIDTH, _HEIGHT, _BARS = 220, 56, 8
_COLOURS = {"this": "#1668b5", "champion": "#d9822b", "previous": "#8a94a0"}
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:78rem;padding:0 1rem;color:#1d2733}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid #dfe4e9;padding:.3rem .6rem;text-align:left;vertical-align:middle}
th{font-weight:600;color:#55606c}.number{text-align:right;font-variant-numeric:tabular-nums}
.warn{background:#fff4d6}.retrain{background:#ffe3c7}.stop{background:#fbdcdc}.breach{font-weight:600}
.this{color:#1668b5}.champion{color:#b5620f}.previous{color:#66707c}.none{color:#8a94a0}
"""


@dataclass
class Seen:
    """One source as it is shown: its statistics, those it was held against, and all distances."""

    title: str
    this: Statistics
    baselines: dict[str, tuple[str, Statistics]] = field(default_factory=dict)
    """kind -> name, statistics"""
    distances: list[Distance] = field(default_factory=list)
    remark: str = ""


def glance(report: WatchReport, seen: Sequence[Seen]) -> str:
    """Return the page of a window: the breaches first, then each source's features with distances and plots."""
    breaches = "".join(f"<li class='{each.severity}'>{escape(each.sentence())}</li>" for each in report.breaches)
    broken = [f"{source}: {', '.join(rules)}" for source, rules in report.expectations.items() if rules]
    notes = "".join(
        f"<li>{escape(note)}</li>" for note in [*report.notes, *(f"Great Expectations: {b}" for b in broken)]
    )
    head = f"{escape(report.delivery)} {escape(str(report.window))}"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{head}</title>"
        f"<style>{_STYLE}</style></head>"
        f"<body><h1>{head}</h1><p>{report.compared} distances, {len(report.breaches)} beyond their limits. "
        "<a href='data_docs/index.html'>Great Expectations' data docs</a> · <a href='facets.html'>TFDV's facets</a></p>"
        f"{f'<ul>{breaches}</ul>' if breaches else ''}{''.join(_section(each) for each in seen)}"
        f"{f'<h2>Notes</h2><ul>{notes}</ul>' if notes else ''}</body></html>"
    )


def facets(seen: Sequence[Seen]) -> str:
    """Return TFDV's facets of every source, beside the first thing that it is held against."""
    from tensorflow_data_validation.utils.display_util import get_statistics_html

    parts = []
    for each in (one for one in seen if one.this.used):
        name, other = next(iter(each.baselines.values()), (None, None))
        beside = {"rhs_statistics": other.proto, "rhs_name": name} if other is not None and other.used else {}
        parts.append(f"<h2>{escape(each.title)}</h2>")
        parts.append(get_statistics_html(each.this.proto, lhs_name="this slice", **beside))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Facets</title></head><body>"
        "<p>Facets loads its scripts from raw.githubusercontent.com and cdnjs.cloudflare.com. Where these cannot be "
        "reached nothing is drawn below: <a href='index.html'>index.html</a> needs no internet.</p>"
        f"{''.join(parts)}</body></html>"
    )


def _section(seen: Seen) -> str:
    kinds = [kind for kind in ("champion", "previous") if kind in seen.baselines]
    names = "".join(
        f", <span class='{kind}'>{escape(seen.baselines[kind][0])}: {seen.baselines[kind][1].rows:,} rows</span>"
        for kind in kinds
    )
    heads = "".join(f"<th class='number {kind}'>from {kind}</th>" for kind in kinds)
    rows = "".join(_row(name, seen, kinds) for name in seen.this.features)
    sampled = f" (a sample of {seen.this.used:,})" if seen.this.used < seen.this.rows else ""
    return (
        f"<h2>{escape(seen.title)}</h2><p><span class='this'>this: {seen.this.rows:,} rows{sampled}</span>{names}. "
        f"{escape(seen.remark)}</p><table><tr><th>feature</th><th class='number'>missing</th>{heads}"
        f"<th class='number'>limit</th><th>values</th></tr>{rows}</table>"
    )


def _row(name: str, seen: Seen, kinds: Sequence[str]) -> str:
    mine = [each for each in seen.distances if each.feature == name]
    worst = next(
        (severity for severity in ("stop", "retrain", "warn") if any(e.severity == severity for e in mine)), ""
    )
    cells = "".join(_distance([each for each in mine if each.kind == kind]) for kind in kinds)
    limits = sorted({f"{each.limit:g}" for each in mine if each.limit is not None})
    said = f" <span class='breach'>{worst}</span>" if worst else ""
    return (
        f"<tr class='{worst}'><td>{escape(name)}{said}</td><td class='number'>{_missing(seen.this.features[name])}</td>"
        f"{cells}<td class='number'>{', '.join(limits) or '-'}</td><td>{_plot(name, seen)}</td></tr>"
    )


def _distance(mine: Sequence[Distance]) -> str:
    shown = next((each for each in mine if each.limit is not None), mine[0] if mine else None)
    if shown is None:
        return "<td class='number none'>-</td>"
    sign = "L∞" if shown.measure == "linfty" else "JS"
    return f"<td class='number {'breach' if shown.severity else ''}'>{shown.distance:.3f} {sign}</td>"


def _missing(feature: Any) -> str:
    counts = common(feature)
    total = counts.num_missing + counts.num_non_missing
    return f"{counts.num_missing / total:.1%}" if total else "-"


def _plot(name: str, seen: Seen) -> str:
    drawn = [("this", seen.this), *((kind, each) for kind, (_, each) in seen.baselines.items())]
    features = {kind: each.features[name] for kind, each in drawn if name in each.features}
    is_text = {kind: feature.WhichOneof("stats") == "string_stats" for kind, feature in features.items()}
    features = {kind: feature for kind, feature in features.items() if is_text[kind] == is_text["this"]}
    return _bars(features) if is_text["this"] else _curves(features)


def _bars(features: Mapping[str, Any]) -> str:
    shares = {kind: dict(_ranked(feature)) for kind, feature in features.items()}
    values = sorted(
        {v for each in shares.values() for v in each}, key=lambda v: -max(s.get(v, 0) for s in shares.values())
    )
    values = values[:_BARS]
    top = max((each.get(value, 0.0) for each in shares.values() for value in values), default=0.0)
    if not top:
        return "<span class='none'>no values</span>"
    wide = _WIDTH / len(values)
    thin = wide * 0.8 / len(shares)
    rects = "".join(
        f"<rect x='{place * wide + number * thin:.1f}' y='{_HEIGHT * (1 - share / top):.1f}' width='{thin:.1f}' "
        f"height='{_HEIGHT * share / top:.1f}' fill='{_COLOURS[kind]}'>"
        f"<title>{escape(value)} {kind}: {share:.1%}</title></rect>"
        for place, value in enumerate(values)
        for number, (kind, each) in enumerate(shares.items())
        if (share := each.get(value, 0.0))
    )
    labels = "".join(
        f"<text x='{place * wide:.1f}' y='{_HEIGHT + 11}' font-size='9'>{escape(value[:6])}</text>"
        for place, value in enumerate(values)
    )
    return f"<svg width='{_WIDTH}' height='{_HEIGHT + 14}' role='img'>{rects}{labels}</svg>"


def _ranked(feature: Any) -> Iterator[tuple[str, float]]:
    total = common(feature).num_non_missing or 1
    for bucket in feature.string_stats.rank_histogram.buckets:
        yield str(bucket.label), bucket.sample_count / total


def _curves(features: Mapping[str, Any]) -> str:
    spans = {kind: list(_spans(feature)) for kind, feature in features.items()}
    edges = [edge for each in spans.values() for low, high, _ in each for edge in (low, high)]
    if not edges:
        return "<span class='none'>no values</span>"
    low, high = min(edges), max(edges)
    if high == low:
        return f"<span class='none'>always {low:g}</span>"
    top = max(density for each in spans.values() for *_, density in each) or 1.0
    scale = _WIDTH / (high - low)
    lines = []
    for kind, each in spans.items():
        steps = [
            f"{(edge - low) * scale:.1f},{_HEIGHT * (1 - density / top):.1f}"
            for start, end, density in each
            for edge in (start, end)
        ]
        lines.append(f"<polyline points='{' '.join(steps)}' fill='none' stroke='{_COLOURS[kind]}' stroke-width='1.6'/>")
    ends = (
        f"<text x='0' y='{_HEIGHT + 11}' font-size='9'>{low:.6g}</text>"
        f"<text x='{_WIDTH}' y='{_HEIGHT + 11}' font-size='9' text-anchor='end'>{high:.6g}</text>"
    )
    return f"<svg width='{_WIDTH}' height='{_HEIGHT + 14}' role='img'>{''.join(lines)}{ends}</svg>"


def _spans(feature: Any) -> Iterator[tuple[float, float, float]]:
    """Yield (from, to, density) of the feature's histogram of equal widths; empty where it has no values."""
    for histogram in feature.num_stats.histograms:
        if histogram.type != 0:  # STANDARD
            continue
        total = sum(bucket.sample_count for bucket in histogram.buckets) or 1.0
        for bucket in histogram.buckets:
            wide = bucket.high_value - bucket.low_value
            if wide >= 0 and abs(bucket.low_value) < 1e300 and abs(bucket.high_value) < 1e300:
                yield bucket.low_value, bucket.high_value, bucket.sample_count / total / (wide or 1.0)
