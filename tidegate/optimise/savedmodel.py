"""SavedModel -> SavedModel with the encodings inside, for TensorFlow Serving: raw columns in, probabilities out.

TensorFlow Serving runs nothing but the graph, so what Triton's Python does before ONNX is part of the graph here. The
means and deviations are constants of the graph and the vocabularies are tables in it, all frozen with the dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.errors import Permanent
from tidegate.optimise.recording import tensor
from tidegate.saved_model import OUTPUT, SIGNATURE, predictor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tidegate.contract.encodings import Encodings, FeatureEncoding
    from tidegate.handoff import Feature
    from tidegate.recorded import RecordedAnswers
    from tidegate.saved_model import Predict

WARM_UP = "assets.extra/tf_serving_warmup_requests"
"""TensorFlow Serving replays these requests while it loads a version, before that is available."""
MOST_WARM_UP = 1000  # records; with more TensorFlow Serving refuses to load the version


class SavedModelTarget:
    """A SavedModel whose inputs are raw: string, int64 or float32 [n, 1] by feature."""

    file = "servable"
    takes_raw = True

    def check(self) -> None:
        """Need nothing but this environment."""

    def convert(self, saved_model: Path, features: Sequence[Feature], encodings: Encodings, to: Path) -> None:
        """Put the encodings before the serving signature and save both as one."""
        import tensorflow as tf

        names = {feature.name for feature in features}
        if names != set(encodings.names):
            unlike = ", ".join(sorted(names ^ set(encodings.names)))
            raise Permanent(f"features and encodings of the dataset differ in {unlike}; build the dataset again")
        servable = tf.Module()
        servable.model = tf.saved_model.load(str(saved_model))
        servable.tables = {each.name: _table(each) for each in encodings.features if each.vocabulary}
        model = servable.model.signatures[SIGNATURE]

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def serve(**columns: Any) -> dict[str, Any]:
            encoded = {each.name: _encode(each, servable.tables, columns[each.name]) for each in encodings.features}
            return {OUTPUT: model(**encoded)[OUTPUT]}

        specs = {each.name: tf.TensorSpec((None, 1), _dtype(each), each.name) for each in encodings.features}
        tf.saved_model.save(servable, str(to), signatures={SIGNATURE: serve.get_concrete_function(**specs)})

    def load(self, path: Path) -> Predict:
        """Open it in TensorFlow, on the processor."""
        return predictor(path)

    def complete(self, path: Path, features: Sequence[Feature], recorded: RecordedAnswers, model: str) -> None:
        """Write the recorded rows as requests that warm a server up."""
        import tensorflow as tf
        from tensorflow_serving.apis import prediction_log_pb2

        target = path / WARM_UP
        target.parent.mkdir()
        with tf.io.TFRecordWriter(str(target)) as out:
            for row in range(min(len(recorded.rows), MOST_WARM_UP)):
                entry = prediction_log_pb2.PredictionLog()
                request = entry.predict_log.request
                request.model_spec.name, request.model_spec.signature_name = model, SIGNATURE
                for feature in features:
                    column = tensor(feature, [recorded.columns[feature.name][row]])
                    request.inputs[feature.name].CopyFrom(tf.make_tensor_proto(column, _dtype(feature)))
                out.write(entry.SerializeToString())


def _dtype(feature: Feature | FeatureEncoding) -> Any:
    import tensorflow as tf

    return {"BYTES": tf.string, "INT64": tf.int64, "FP32": tf.float32}[feature.dtype]


def _table(feature: FeatureEncoding) -> Any:
    """Return known category -> index; any other value, a missing one among them, becomes `size`."""
    import tensorflow as tf

    known = tf.lookup.KeyValueTensorInitializer(
        tf.constant(list(feature.vocabulary), _dtype(feature)), tf.range(feature.size, dtype=tf.int64)
    )
    return tf.lookup.StaticHashTable(known, default_value=feature.size)


def _encode(feature: FeatureEncoding, tables: Mapping[str, Any], column: Any) -> Any:
    """Encode as `FeatureEncoding.encode` does, in the same precision."""
    import tensorflow as tf

    if feature.vocabulary:
        return tables[feature.name].lookup(column)
    if feature.encoding == "vocabulary":  # no category was known: a table cannot be empty, and all become index 0
        return tf.zeros(tf.shape(column), tf.int64)
    number = tf.cast(column, tf.float64)
    scaled = (number - feature.mean) / feature.std
    return tf.cast(tf.where(tf.math.is_finite(number), scaled, tf.zeros_like(scaled)), tf.float32)
