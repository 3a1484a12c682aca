"""The quality process: settings in, a look at the samples four times a second, a thread for each topic of labels.

Environment: TIDEGATE_SERVING (folder of the deployed versions), TIDEGATE_DELIVERIES (folder of deliveries),
TIDEGATE_QUALITY_STATE (folder in which the positions in topics are kept), TIDEGATE_QUALITY_PORT and
TIDEGATE_QUALITY_TOKEN_FILE (of /metrics), and TIDEGATE_KAFKA_<CONNECTION> (bootstrap servers of a connection that
deliveries name, in capitals).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.core import CollectorRegistry

from tidegate.clients.exporter import Exporter
from tidegate.clients.labels import LabelTopic
from tidegate.delivery import deliveries_folder
from tidegate.errors import SetupError, Unavailable
from tidegate.quality.figures import Figures
from tidegate.quality.looking import Quality

if TYPE_CHECKING:
    from tidegate.delivery import KafkaTopic

_log = logging.getLogger("tidegate.quality")
_EVERY_S = 0.25
_TOPICS_EVERY_S = 2.0
_LONGEST_S = 30.0  # between two tries of Kafka


def main() -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        SetupError: a setting is missing, or the port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)  # it repeats each failed connection
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    quality = Quality(Path(_setting("TIDEGATE_SERVING")), deliveries_folder(), time.time)
    state = Path(_setting("TIDEGATE_QUALITY_STATE"))
    registry = CollectorRegistry()
    registry.register(Figures(quality))
    token = Path(_setting("TIDEGATE_QUALITY_TOKEN_FILE")).read_text(encoding="utf-8").strip()
    quality.look()
    with Exporter(registry, int(_setting("TIDEGATE_QUALITY_PORT")), token) as exporter:
        _log.info("figures on 127.0.0.1:%d/metrics", exporter.port)
        threading.Thread(target=_topics, args=(quality, state, stop), daemon=True).start()
        while not stop.wait(_EVERY_S):
            try:
                quality.look()
            except OSError:
                _log.exception("this look failed; the next one tries again")
    _log.info("stopped")


def _topics(quality: Quality, state: Path, stop: threading.Event) -> None:
    """Begin to read the topic of each delivery that names one, and end it when it no longer does."""
    reading: dict[str, tuple[KafkaTopic, threading.Event]] = {}
    while not stop.is_set():
        try:
            wanted = quality.topics()
        except OSError as error:
            _log.warning("the deliveries cannot be read: %s", error)
            wanted = {delivery: topic for delivery, (topic, _) in reading.items()}
        for delivery, (topic, over) in list(reading.items()):
            if wanted.get(delivery) != topic:
                over.set()
                del reading[delivery]
        for delivery, topic in wanted.items():
            if delivery not in reading:
                reading[delivery] = (topic, over := threading.Event())
                threading.Thread(target=_labels, args=(quality, delivery, topic, state, over), daemon=True).start()
        stop.wait(_TOPICS_EVERY_S)


def _labels(quality: Quality, delivery: str, topic: KafkaTopic, state: Path, over: threading.Event) -> None:
    name = f"TIDEGATE_KAFKA_{topic.connection.upper()}"
    bootstrap = os.environ.get(name, "")
    if not bootstrap:
        _log.error("labels of %s are not read: %s is not set; give it the bootstrap servers", delivery, name)
        return
    labels = LabelTopic(bootstrap, topic.topic, state / f"{delivery}.{topic.topic}.json")
    pause = 1.0
    while not over.is_set():
        try:
            for batch in labels.read():
                pause = 1.0
                for found in batch:
                    quality.label(delivery, found)
                if over.is_set():
                    return
        except Exception as error:  # whatever a broker answers must not end the counting of labels
            _log.warning("%s; tried again in %.0f s", error, pause, exc_info=not isinstance(error, Unavailable))
            over.wait(pause)
            pause = min(2 * pause, _LONGEST_S)


def _setting(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise SetupError(f"{name} is not set; `tidegate up` sets it, or see the head of tidegate/quality/__main__.py")
    return value


if __name__ == "__main__":
    main()
