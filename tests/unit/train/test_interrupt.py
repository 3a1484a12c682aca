"""SIGTERM is noted while a training runs, and means what it meant before afterwards."""

from __future__ import annotations

import os
import signal

from tidegate.train.interrupt import stop_sign


def test_the_signal_is_noted_and_then_handled_as_before(monkeypatch):
    monkeypatch.setenv("TIDEGATE_GRACE", "25")
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with stop_sign() as sign:
            assert (sign.is_up, sign.grace) == (False, 25.0)
            os.kill(os.getpid(), signal.SIGTERM)
            assert sign.is_up
        assert heard == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)
