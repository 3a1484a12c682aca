"""Great Expectations on raw slices, and its data docs as pages that need neither scripts nor the internet."""

from __future__ import annotations

import os
import re
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.contract.arrow import BYTES, ERROR, POSITION
from tidegate.validate.sample import batches, count

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOADED = re.compile(
    r"<link\b[^>]*>|<script\b[^>]*\bsrc=[^>]*>\s*</script>|<img\b[^>]*\bsrc=\"https?:[^>]*>|<script\b.*?</script>",
    re.DOTALL | re.IGNORECASE,
)
_STYLE = """<style>
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:72rem;padding:0 1rem;color:#1d2733}
table{border-collapse:collapse;margin:.5rem 0}
td,th{border:1px solid #d5dbe1;padding:.25rem .6rem;text-align:left;vertical-align:top}
.alert-danger{background:#fbe4e4;padding:.5rem .8rem}.alert-success{background:#e2f4e6;padding:.5rem .8rem}
.badge{background:#eef1f4;border-radius:.3rem;padding:0 .35rem}ul{padding-left:1.2rem}pre{white-space:pre-wrap}
button,form,input,footer,.modal,.cooltip,.navbar-toggler,.btn-group{display:none}
</style>"""


def validate(
    slices: Mapping[str, tuple[list[Path], dict[str, Any]]], run: str, to: Path, most_rows: int
) -> dict[str, list[str]]:
    """Validate each source's raw rows by its suite and write the data docs below `to`; index.html is the first page.

    Rows that could not be decoded are left out: their columns are empty. The pages name the expectations that failed
    and values that broke them; what decides about a row are the contract's masks.

    Args:
        slices: source -> Parquet files of the raw slice, in order; and the suite.
        run: the run's name in the pages.
        to: a folder.
        most_rows: of more, a fixed sample is validated, and bounds of the number of rows are left out.

    Returns:
        source -> the rules, as `<column>:<rule>`, that some row broke.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    with TemporaryDirectory(prefix="tidegate-gx-") as root:
        context = gx.get_context(mode="file", project_root_dir=root)
        context.variables.progress_bars = {"globally": False}
        broken, listed = {}, []
        for source, (paths, suite) in slices.items():
            definition = _definition(gx, context, source, _fitting(suite, count(paths) > most_rows), run)
            checkpoint = gx.Checkpoint(
                name=source, validation_definitions=[definition], actions=[UpdateDataDocsAction(name="docs")]
            )
            found = context.checkpoints.add(checkpoint).run(
                batch_parameters={"dataframe": _frame(paths, most_rows)}, run_id=gx.RunIdentifier(run_name=run)
            )
            broken[source] = _broken(found)
            listed.append((source, next(iter(found.run_results.values())).statistics))
        site = Path(root) / "gx" / "uncommitted" / "data_docs" / "local_site"
        _publish(site, to)
        (to / "index.html").write_text(_index(run, listed, to), encoding="utf-8")
    return broken


def _fitting(suite: dict[str, Any], is_sample: bool) -> dict[str, Any]:
    whole = "expect_table_row_count_to_be_between"
    kept = [each for each in suite["expectations"] if not (is_sample and each["type"] == whole)]
    return {**suite, "expectations": kept}


def _definition(gx: Any, context: Any, source: str, suite: dict[str, Any], run: str) -> Any:
    named = {
        "name": f"{source}-{suite['meta']['version']}",
        "expectations": suite["expectations"],
        "meta": suite["meta"],
    }
    expectations = context.suites.add(gx.ExpectationSuite(**named))
    asset = context.data_sources.add_pandas(source).add_dataframe_asset("slice")
    batch = asset.add_batch_definition_whole_dataframe(run)
    return context.validation_definitions.add(gx.ValidationDefinition(name=source, data=batch, suite=expectations))


def _frame(paths: list[Path], most_rows: int) -> Any:
    frame = pa.Table.from_batches(batches(paths, most_rows), pq.read_schema(paths[0])).to_pandas()
    if ERROR in frame.columns:
        frame = frame[frame[ERROR].isna()]
    return frame.drop(columns=[name for name in (POSITION, ERROR, BYTES) if name in frame.columns])


def _broken(found: Any) -> list[str]:
    results = [each for run in found.run_results.values() for each in run.results if not each.success]
    return sorted({str((each.expectation_config.meta or {}).get("reason")) for each in results})


def _publish(site: Path, to: Path) -> None:
    for page in sorted(site.rglob("*.html")):
        target = to / page.relative_to(site)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = _LOADED.sub("", page.read_text(encoding="utf-8"))
        target.write_text(text.replace("</head>", f"{_STYLE}</head>", 1), encoding="utf-8")


def _index(run: str, listed: list[tuple[str, dict[str, Any]]], to: Path) -> str:
    """Return the first page; GX's own draws its table by scripts from the internet."""
    rows = []
    for source, counted in listed:
        page = next(path for path in sorted(to.rglob(f"{source}-slice.html")) if "validations" in path.parts)
        failed = counted["unsuccessful_expectations"]
        said = f"{failed} failed" if failed else "all hold"
        rows.append(
            f"<tr><td><a href='{page.relative_to(to)}'>{escape(source)}</a></td>"
            f"<td>{counted['evaluated_expectations']}</td><td>{said}</td></tr>"
        )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(run)}</title>{_STYLE}</head><body>"
        f"<h1>Great Expectations: {escape(run)}</h1><p>The raw slices, by the contracts' suites. "
        "<a href='../index.html'>Drift at a glance</a></p>"
        f"<table><tr><th>source</th><th>expectations</th><th></th></tr>{''.join(rows)}</table></body></html>"
    )
