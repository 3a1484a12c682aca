"""Another engine in its own environment: asks it one question a line, so that its slow import is paid once.

Run as a file by that environment's Python: `python engine.py great_expectations|tfdv|datacontract`.
"""

from __future__ import annotations

import json
import sys


def great_expectations(question: dict) -> list[str]:
    """Return the reasons (by our names) of the expectations that a Parquet file fails."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations.core import ExpectationSuite

    context = great_expectations.context = getattr(great_expectations, "context", None) or gx.get_context(
        mode="ephemeral"
    )
    frame = pd.read_parquet(question["data"])
    suite = ExpectationSuite(**{name: question["schema"][name] for name in ("name", "expectations", "meta")})
    asset = context.data_sources.add_or_update_pandas("p").add_dataframe_asset("a")
    batch = asset.add_batch_definition_whole_dataframe("b").get_batch({"dataframe": frame})
    results = batch.validate(suite).results
    errors = [str(r.exception_info) for r in results if (r.exception_info or {}).get("raised_exception")]
    if errors:
        raise RuntimeError(errors[0])
    return sorted({r.expectation_config.meta["reason"] for r in results if not r.success})


def tfdv(question: dict) -> list[str]:
    """Return the names of the columns that have an anomaly in a Parquet file of examples."""
    import pyarrow.parquet as pq
    import tensorflow_data_validation as tfdv
    from google.protobuf import text_format
    from tensorflow_data_validation.statistics import stats_impl
    from tensorflow_data_validation.utils import validation_lib  # noqa: F401
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.arrow import table_util  # noqa: F401  # as TFDV reads record batches

    schema = text_format.Parse(question["schema"], schema_pb2.Schema())
    options = tfdv.StatsOptions(schema=schema)
    batches = pq.read_table(question["data"]).combine_chunks().to_batches()
    statistics = stats_impl.generate_statistics_in_memory(batches[0], options)
    return sorted(tfdv.validate_statistics(statistics, schema).anomaly_info)


def datacontract(question: dict) -> list[str]:
    """Return `type field` of the checks that a contract's server fails."""
    from datacontract.data_contract import DataContract

    run = DataContract(data_contract_file=question["contract"]).test()
    errors = [check.reason for check in run.checks if str(check.result.value) == "error"]
    if errors:
        raise RuntimeError(errors[0])
    return sorted(f"{check.type} {check.field}" for check in run.checks if str(check.result.value) == "failed")


if __name__ == "__main__":
    answer = globals()[sys.argv[1]]
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            print(json.dumps({"answer": answer(json.loads(line))}), file=out, flush=True)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=out, flush=True)
