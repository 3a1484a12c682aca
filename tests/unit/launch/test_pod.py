"""A member's first steps in its pod."""

from __future__ import annotations

import json

from tidegate.launch import pod


def test_each_member_has_its_place_among_stable_names():
    names = pod.peers("gang", 2)
    assert json.loads(pod.tf_config(names, 1)) == {
        "cluster": {"worker": ["gang-0.gang:2222", "gang-1.gang:2222"]},
        "task": {"type": "worker", "index": 1},
    }


def test_peers_are_awaited_until_they_have_names(capsys):
    looks: list[str] = []

    def resolves(name: str) -> bool:
        looks.append(name)
        return looks.count(name) > 2

    assert pod.awaited(["a", "b"], 30.0, resolves) == []
    assert pod.awaited(["a"], 0.0, lambda _: False) == ["a"]


def test_peers_that_do_not_come_are_named_and_it_may_be_tried_again(tmp_path, monkeypatch):
    log = tmp_path / "end"
    monkeypatch.setenv("TIDEGATE_TERMINATION_LOG", str(log))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    code = pod.main(["--gang", "gang.invalid", "--members", "2", "--within", "0", "tidegate.train"])
    assert code == 75
    assert "member 1 did not find gang.invalid-0.gang.invalid" in log.read_text()
