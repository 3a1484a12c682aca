"""The quality process: what it reads of files that grow and change, what it shows, and what it survives."""

from __future__ import annotations

import os

import numpy as np
import pytest
from prometheus_client.core import CollectorRegistry

from tidegate.delivery import project_root
from tidegate.quality.figures import Figures
from tidegate.quality.looking import Quality
from tidegate.quality.tail import Tail
from tidegate.served import Sampler

FLIGHTS = (project_root() / "schemas" / "deliveries" / "flights.yaml").read_text()
SECTION = """
  quality:
    predictions: {differ: 10%}
    labels: {kafka: {connection: events, topic: labels}}
retrain:"""


class Place:
    """Folders of versions and deliveries, and samplers as the servers have them."""

    def __init__(self, folder):
        self.serving, self.deliveries = folder / "serving", folder / "deliveries"
        self.serving.mkdir()
        self.deliveries.mkdir()
        self.now = 100.0

    def deploy(self, name):
        (self.serving / name).mkdir()
        (self.serving / name / "endpoint.json").write_text("{}")

    def serve(self, name, predictions, start=0, process="p", **given):
        sampler = Sampler(self.serving / name, process, 1.0, **given)
        for number, prediction in enumerate(predictions, start):
            sampler.see(f"r{number}", {"a": np.array([[number]])}, np.array([[prediction]]))
        sampler.close()

    def write(self, text=FLIGHTS):
        path = self.deliveries / "flights.yaml"
        path.write_text(text)
        self.now += 1
        os.utime(path, (self.now, self.now))

    def quality(self):
        return Quality(self.serving, self.deliveries, lambda: self.now)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def count(quality, name="flights-v1"):
    return sum(quality.counting["flights"].versions[name].buckets)


def figures(quality):
    registry = CollectorRegistry()
    registry.register(Figures(quality))
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_it_begins_at_the_files_ends_and_remembers_what_was_before(place):
    place.deploy("flights-v1")
    place.serve("flights-v1", [0.1, 0.2])
    quality = place.quality()
    quality.look()
    assert count(quality) == 0
    place.serve("flights-v1", [0.3], start=2)
    place.deploy("flights-v2")
    place.serve("flights-v2", [0.9, 0.2])
    quality.look()
    assert count(quality) == 1
    assert count(quality, "flights-v2") == 2, "a version that came later is counted from its first answer on"
    assert quality.counting["flights"].versions["flights-v2"].pairs == {"flights-v1": 2}
    assert quality.counting["flights"].versions["flights-v2"].disagreements == {"flights-v1": 1}


def test_two_versions_are_shown_at_one_instant_and_zeros_are_figures(place):
    place.deploy("flights-v1")
    place.deploy("flights-v2")
    quality = place.quality()
    quality.look()
    place.serve("flights-v1", [0.12, 0.97])
    quality.look()
    shown = figures(quality)
    one, two = ("delivery", "flights"), ("version", "flights-v1")
    assert shown["tidegate_predictions_bucket", one, ("le", "0.1"), two] == 0
    assert shown["tidegate_predictions_bucket", one, ("le", "0.15"), two] == 1
    assert shown["tidegate_predictions_bucket", one, ("le", "+Inf"), two] == 2
    pair = (("champion", "flights-v1"), one, ("version", "flights-v2"))
    assert shown["tidegate_pairs_total", *pair] == shown["tidegate_disagreements_total", *pair] == 0
    assert shown["tidegate_labelled_total", one, two] == shown["tidegate_wrong_total", one, two] == 0
    assert shown["tidegate_quality_heartbeat_timestamp_seconds",] == 100.0


def test_segments_change_and_no_line_is_lost_or_counted_twice(place):
    place.deploy("flights-v1")
    quality = place.quality()
    quality.look()
    for turn in range(6):
        place.serve("flights-v1", [0.5] * 30, start=30 * turn, segment_bytes=6000)
        quality.look()
        quality.look()
        assert count(quality) == 30 * (turn + 1)


def test_each_process_of_a_server_is_read(place):
    place.deploy("flights-v1")
    quality = place.quality()
    quality.look()
    for process in ("flights_0_0", "flights_0_1"):
        place.serve("flights-v1", [0.5], process=process)
    quality.look()
    assert count(quality) == 2


def test_a_line_without_its_end_waits_and_one_that_is_no_sample_is_counted(place):
    place.deploy("flights-v1")
    quality = place.quality()
    quality.look()
    place.serve("flights-v1", [0.5])
    file = place.serving / "flights-v1" / "served" / "p.jsonl"
    whole = file.read_bytes()
    with file.open("ab") as out:
        out.write(b"nonsense\n" + whole[:10])
    quality.look()
    assert (count(quality), quality.bad_samples) == (1, 1)
    with file.open("ab") as out:
        out.write(whole[10:])
    quality.look()
    assert (count(quality), quality.bad_samples) == (2, 1)


def test_a_version_that_is_retired_leaves_no_figure_and_no_open_file(place):
    place.deploy("flights-v1")
    quality = place.quality()
    quality.look()
    place.serve("flights-v1", [0.5])
    quality.look()
    for path in sorted((place.serving / "flights-v1").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (place.serving / "flights-v1").rmdir()
    quality.look()
    assert quality.counting["flights"].versions == {}
    assert quality._tails == {}


def test_an_installation_anew_is_followed(place):
    place.deploy("flights-v1")
    quality = place.quality()
    quality.look()
    place.serve("flights-v1", [0.5, 0.6])
    quality.look()
    (place.serving / "flights-v1").rename(place.serving / ".gone")
    place.deploy("flights-v1")
    place.serve("flights-v1", [0.7], start=5)
    quality.look()
    quality.look()
    assert count(quality) == 3


def test_a_file_that_cannot_be_opened_is_tried_at_the_next_look(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "p.jsonl").symlink_to(tmp_path / "nowhere")
    tail = Tail(tmp_path)
    assert list(tail.new()) == []
    tail.close()


def test_topics_come_and_go_with_the_file_and_a_mistake_leaves_the_last_good_one(place):
    quality = place.quality()
    place.write()
    assert quality.topics() == {}
    place.write(FLIGHTS.replace("\nretrain:", SECTION))
    assert quality.topics()["flights"].topic == "labels"
    place.write("delivery: flights\n")
    assert quality.topics()["flights"].topic == "labels"
    place.write()
    assert quality.topics() == {}


def test_labels_are_counted_for_their_delivery_and_bad_ones_too(place):
    place.deploy("flights-v1")
    quality = place.quality()
    quality.look()
    place.serve("flights-v1", [0.9])
    quality.look()
    quality.label("flights", ("r0", 0))
    quality.label("flights", None)
    shown = figures(quality)
    assert shown["tidegate_wrong_total", ("delivery", "flights"), ("version", "flights-v1")] == 1
    assert shown["tidegate_labels_bad_total", ("delivery", "flights")] == 1
