"""The pure parts of a gang's leader."""

from __future__ import annotations

import json

from tidegate.launch.gang import describe, first_failure, free_ports, tf_configs


def test_a_gang_of_one_trains_without_a_cluster():
    assert tf_configs([20001]) == [None]


def test_each_member_gets_its_own_place_in_one_cluster():
    configs = [json.loads(text or "") for text in tf_configs([20001, 20002])]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": 0}, {"type": "worker", "index": 1}]
    assert configs[0]["cluster"] == configs[1]["cluster"] == {"worker": ["127.0.0.1:20001", "127.0.0.1:20002"]}


def test_ports_in_use_are_not_given(tmp_path):
    table = tmp_path / "tcp"
    lines = ["  sl  local_address rem_address", *(f"  0: 0100007F:{port:04X} 0:0 0A" for port in range(20002, 32000))]
    table.write_text("\n".join(lines))
    assert sorted(free_ports(2, [table])) == [20000, 20001]


def test_the_member_to_blame_is_not_the_peer_that_only_lost_it():
    assert first_failure([75, 65]) == 1
    assert first_failure([75, None]) == 0
    assert first_failure([0, None]) is None


def test_an_end_is_told_in_words():
    assert describe(65) == "ended with exit code 65"
    assert "SIGKILL (out of memory" in describe(-9)
