"""What the guard knows, what it believes of the ledger's answers, and what follows; pure.

Times are seconds of one clock that never stands still nor goes back while the machine runs, unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tidegate.clients.records import Lease
    from tidegate.clients.traffic import Split

_SHIFT_S = 1.0
_SILENT_S = 3.0


@dataclass(frozen=True)
class Rules:
    """How long the guard waits."""

    patience_s: float = 15.0
    """Seconds that candidates may go on without a word from the ledger about them."""
    longest_s: float = 120.0
    """Seconds that the longest lease of any delivery may run without being renewed."""


@dataclass(frozen=True)
class Word:
    """What the ledger last said, and is believed, about one delivery's lease."""

    holder: str | None
    """None: nobody holds it."""
    fence: int
    expires_at: float
    """Unix seconds by the ledger's clock; tells an older answer from a newer one."""
    since: float
    """When this very state was first heard."""
    heard_at: float
    """When the ledger was last asked and said so."""
    until: float
    """When the lease expires."""


@dataclass(frozen=True)
class Trial:
    """Candidates that have traffic, moved under one fence."""

    fence: int
    seen_at: float
    """When they were first seen; what the ledger said before may be older than their lease."""


@dataclass(frozen=True)
class Knowledge:
    """All that the guard knows, by delivery."""

    words: Mapping[str, Word] = field(default_factory=dict)
    trials: Mapping[str, Trial] = field(default_factory=dict)


def on_trial(split: Split) -> dict[str, int]:
    """Return the versions that must not go on without a live owner, mirrored ones among them."""
    return split.on_trial


def seen(known: Knowledge, delivery: str, split: Split, now: float) -> Knowledge:
    """Return the knowledge after a look at one delivery's traffic."""
    trials = dict(known.trials)
    trial = trials.pop(delivery, None)
    if on_trial(split):
        trials[delivery] = trial if trial and trial.fence == split.fence else Trial(split.fence, now)
    return known if trials == known.trials else replace(known, trials=trials)


def heard(known: Knowledge, leases: Iterable[Lease], asked_at: float, rules: Rules) -> tuple[Knowledge, dict[str, str]]:
    """Return the knowledge after an answer of the ledger, and by delivery why it was not believed.

    Where no candidate has traffic nothing is at stake, and the answer is believed.

    Args:
        known: what is known so far.
        leases: the ledger's answer.
        asked_at: when it was asked.
        rules: the longest lease.
    """
    answer = {lease.delivery: lease for lease in leases}
    words: dict[str, Word] = {}
    doubts: dict[str, str] = {}
    for delivery in answer.keys() | known.trials.keys():
        lease, before = answer.get(delivery), known.words.get(delivery)
        doubt = doubt_of(lease, before if delivery in known.trials else None)
        if doubt is None:
            words[delivery] = _word(lease, before, asked_at, rules.longest_s)
            continue
        doubts[delivery] = doubt
        if before is not None:
            words[delivery] = before
    return replace(known, words=words), doubts


def doubt_of(lease: Lease | None, before: Word | None) -> str | None:
    """Return why an answer about a lease is older than, or contradicts, what is believed; None if it does not."""
    if lease is not None and not math.isfinite(lease.remaining_s):
        return f"{lease.remaining_s} s are left of it"
    if before is None or before.fence == 0:
        return None
    if lease is None:
        return f"it is gone, and was of fence {before.fence}"
    if lease.fence != before.fence:
        return f"its fence went back from {before.fence} to {lease.fence}" if lease.fence < before.fence else None
    if lease.holder is None:
        return None
    if lease.holder != before.holder:
        was = f"was {before.holder}'s" if before.holder else "had been given back"
        return f"{lease.holder} holds it under fence {lease.fence}, which {was}"
    back = before.expires_at - lease.expires_at.timestamp()
    return f"its expiry went back by {back:.1f} s" if back > _SHIFT_S else None


def verdict(
    split: Split, trial: Trial | None, word: Word | None, now: float, patience_s: float = Rules.patience_s
) -> str | None:
    """Return why a delivery's candidates must lose their traffic; None if they may keep it.

    Args:
        split: how its traffic is shared.
        trial: since when these candidates have traffic; None without any.
        word: what the ledger said last about its lease.
        now: the time.
        patience_s: see `Rules`.
    """
    if trial is None or split.champion is None:
        return None
    who = f"{', '.join(sorted(on_trial(split)))} has traffic"
    if word is None or not _about(word, trial):
        silence = now - trial.seen_at
        said = f"{who}, and the ledger has not answered for {silence:.0f} s"
        return said if silence >= patience_s else None
    if word.holder is None:
        return f"{who}, but nobody holds the lease"
    if word.fence < split.fence:
        return f"{who} under fence {split.fence}, which {word.holder} does not own: its lease has fence {word.fence}"
    if now < word.until:
        return None
    silence = now - word.heard_at
    quiet = f", and the ledger has been silent for {silence:.0f} s" if silence > _SILENT_S else ""
    return f"the lease of {word.holder} (fence {word.fence}) expired {now - word.until:.1f} s ago{quiet}"


def after_restart(known: Knowledge, now: float, same_boot: bool) -> Knowledge:
    """Return what still holds of knowledge that was kept on disk.

    Args:
        known: what was kept.
        now: the time.
        same_boot: whether the clock is still the one by which it was written. If not, no lease of it holds; its
            candidates have been without a word since the boot, at which the clock began.
    """
    if not same_boot:
        return Knowledge(trials={name: replace(trial, seen_at=0.0) for name, trial in known.trials.items()})
    return Knowledge(
        {name: word for name, word in known.words.items() if word.heard_at <= now},
        {name: trial for name, trial in known.trials.items() if trial.seen_at <= now},
    )


def at_stake(known: Knowledge) -> Knowledge:
    """Return the part of the knowledge that must outlive the process: that about candidates with traffic."""
    return Knowledge({name: word for name, word in known.words.items() if name in known.trials}, known.trials)


def _about(word: Word, trial: Trial) -> bool:
    """Whether a word is about this trial: asked for since it began, or of a holder that may have begun it."""
    return word.heard_at >= trial.seen_at or (word.holder is not None and word.fence >= trial.fence)


def _word(lease: Lease | None, before: Word | None, asked_at: float, longest_s: float) -> Word:
    if lease is None:
        return Word(None, 0, 0.0, asked_at, asked_at, asked_at)
    state = (lease.holder, lease.fence, lease.expires_at.timestamp())
    same = before is not None and (before.holder, before.fence, before.expires_at) == state
    since = before.since if before is not None and same else asked_at
    return Word(*state, since, asked_at, until=min(asked_at + lease.remaining_s, since + longest_s))
