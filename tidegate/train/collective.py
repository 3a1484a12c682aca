"""What the members of a gang tell each other, over the collectives that they train with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tidegate.errors import Permanent
from tidegate.train.environment import differences
from tidegate.workload import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from tidegate.train.cluster import Place


def strategy_here(bucket: int = 0) -> Any:
    """Return the gang's strategy: collectives by NCCL where there are GPUs, by RING between processors.

    Args:
        bucket: bytes of gradients that one all-reduce carries; 0: all of them at once.
    """
    kind = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        bytes_per_pack=bucket, implementation=kind.NCCL if gpus() else kind.RING
    )
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)


def gpus() -> list[Any]:
    """Return the GPUs of this member."""
    found: list[Any] = tf.config.list_physical_devices("GPU")
    return found


class Gang:
    """The members of a strategy, as one of them sees them; all must call each method at the same point."""

    def __init__(self, strategy: Any, place: Place):
        self.strategy = strategy
        self.place = place
        self._gather = tf.function(
            lambda row: strategy.gather(strategy.run(tf.identity, args=(row,)), axis=0),
            input_signature=[tf.TensorSpec((1, None), tf.int32)],  # there is no collective of bytes
            autograph=False,
        )

    def all_say(self, said: bytes) -> list[bytes]:
        """Return what each member says, by rank."""
        lengths = self._rows(np.array([len(said)], np.int32)).reshape(-1)
        padded = np.zeros(max(1, int(lengths.max())), np.int32)
        padded[: len(said)] = np.frombuffer(said, np.uint8)
        rows = self._rows(padded)
        return [row[:length].astype(np.uint8).tobytes() for row, length in zip(rows, lengths, strict=True)]

    def _rows(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return an array [members, n] of each member's values [n]."""
        found: NDArray[np.int32] = self._gather(tf.constant(values[np.newaxis])).numpy()
        return found[:: len(found) // self.place.workers]  # a member with several GPUs says it once for each

    def require_alike(self, facts: Mapping[str, str]) -> None:
        """Compare the members' facts, and what each one's TensorFlow is; where all are the same, return.

        Raises:
            Permanent: they differ, on every member: with a table of which fact is what on which member.
        """
        mine = {**facts, **_tensorflow()}
        members = [json.loads(text) for text in self.all_say(json.dumps(mine).encode())]
        table = differences(members)
        if table is not None:
            raise Permanent(
                f"the {self.place.workers} members of the gang differ, so they would not train one model:\n{table}\n"
                "Give every member the same image, files and variables"
            )
        log("members alike", rank=self.place.rank, facts=len(mine))

    def require_same_weights(self, digest: str) -> None:
        """Compare the digest of the members' trained weights.

        Raises:
            Permanent: they differ.
        """
        log("trained", rank=self.place.rank, weights=digest[:16])
        everyone = [text.decode() for text in self.all_say(digest.encode())]
        if len(set(everyone)) != 1:
            shown = ", ".join(each[:16] for each in everyone)
            raise Permanent(f"the members' weights differ after training ({shown}); the model draws numbers of its own")


def _tensorflow() -> dict[str, str]:
    built = tf.sysconfig.get_build_info()
    return {
        "tensorflow": tf.version.VERSION,
        "tensorflow commit": tf.version.GIT_VERSION,
        "CUDA built with": str(built.get("cuda_version", "none")),
        "cuDNN built with": str(built.get("cudnn_version", "none")),
        "GPUs": str(len(gpus())),
    }
