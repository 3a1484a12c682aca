"""What the guard believes and decides, case by case of the table in tidegate/guard/__init__.py."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.clients.records import Lease
from tidegate.clients.traffic import Split
from tidegate.guard import core
from tidegate.guard.core import Knowledge, Rules, Trial, Word

LEDGER_EPOCH = datetime(2013, 4, 1, tzinfo=UTC)
SPLIT = Split(
    weights={"flights-v1": 90, "flights-v2": 10},
    champion="flights-v1",
    revision=7,
    fence=4,
    endpoints={"flights-v1": "127.0.0.1:1", "flights-v2": "127.0.0.1:2"},
)
SEEN = 1000.0


def lease(remaining_s, *, asked_at=SEEN, holder="run-1", fence=4, expires_s=None):
    """A lease of a ledger whose clock goes as the guard's does, unless told its expiry."""
    expires_at = LEDGER_EPOCH + timedelta(seconds=asked_at + remaining_s if expires_s is None else expires_s)
    return Lease(delivery="flights", holder=holder, fence=fence, expires_at=expires_at, remaining_s=remaining_s)


def on_trial(fence=4):
    return Knowledge(trials={"flights": Trial(fence, SEEN)})


def told(known, *leases, at, rules=None):
    return core.heard(known, leases, at, rules or Rules())


def why(known, now, split=SPLIT):
    return core.verdict(split, known.trials.get("flights"), known.words.get("flights"), now)


def test_a_live_lease_of_the_traffics_fence_is_left_alone_until_it_expires():
    known, doubts = told(on_trial(), lease(15, asked_at=1001), at=1001)
    assert doubts == {}
    assert why(known, 1015.9) is None
    assert "run-1 (fence 4) expired 0.0 s ago, and the ledger has been silent for 15 s" in why(known, 1016.0)


def test_a_later_owner_who_has_not_moved_the_traffic_yet_is_its_owner():
    known, _ = told(on_trial(), lease(15, fence=9), at=1001)
    assert why(known, 1002) is None


def test_an_expired_lease_is_named_at_once():
    known, _ = told(on_trial(), lease(-0.5), at=1001)
    assert why(known, 1001) == "the lease of run-1 (fence 4) expired 0.5 s ago"


@pytest.mark.parametrize("leases", [(), (lease(50, holder=None),)])
def test_candidates_whose_lease_nobody_holds_lose_their_traffic_at_once(leases):
    known, doubts = told(on_trial(), *leases, at=1001)
    assert doubts == {}
    assert why(known, 1001) == "flights-v2 has traffic, but nobody holds the lease"


def test_a_lease_with_a_lower_fence_than_the_traffics_is_not_its_owner():
    known, _ = told(on_trial(), lease(15, fence=3), at=1001)
    assert why(known, 1001) == ("flights-v2 has traffic under fence 4, which run-1 does not own: its lease has fence 3")


def test_without_a_word_since_the_candidates_came_they_keep_their_traffic_for_the_patience():
    assert why(on_trial(), SEEN + 14.9) is None
    assert why(on_trial(), SEEN + 15) == "flights-v2 has traffic, and the ledger has not answered for 15 s"


@pytest.mark.parametrize("before", [lease(-100.0, holder=None, fence=3), lease(-100, fence=3), lease(60, fence=3)])
def test_what_the_ledger_said_before_the_candidates_came_says_nothing_for_or_against_them(before):
    known, _ = told(Knowledge(), before, at=SEEN - 1)
    known = core.seen(known, "flights", SPLIT, SEEN)
    assert why(known, SEEN + 14.9) is None
    assert "has not answered for 15 s" in why(known, SEEN + 15)


def test_a_lease_heard_of_before_its_holder_moved_the_traffic_is_counted_down():
    known, _ = told(Knowledge(), lease(10, asked_at=999), at=SEEN - 1)
    known = core.seen(known, "flights", SPLIT, SEEN)
    assert why(known, 1008.9) is None
    assert "expired 0.0 s ago" in why(known, 1009)


def test_a_lease_that_runs_longer_than_any_may_is_believed_for_the_longest_from_when_it_was_first_heard():
    known, rules = on_trial(), Rules(longest_s=20)
    for at in range(1001, 1021):
        known, doubts = told(known, lease(9e9 - at, asked_at=at), at=at, rules=rules)
        assert doubts == {}
        assert why(known, at) is None
    assert "expired" in why(known, 1021)


def test_a_long_lease_that_is_renewed_lives_on():
    known, rules = on_trial(), Rules(longest_s=20)
    for at in range(1001, 1100, 10):
        known, _ = told(known, lease(3600, asked_at=at), at=at, rules=rules)
        assert why(known, at + 9) is None


LIVE = lease(15, asked_at=1001)


@pytest.mark.parametrize(
    ("answers", "doubt"),
    [
        ([lease(15, asked_at=1005, fence=3)], "its fence went back from 4 to 3"),
        ([lease(15, asked_at=1005, holder="run-2")], "run-2 holds it under fence 4, which was run-1's"),
        ([lease(8, asked_at=1005)], "its expiry went back by 3.0 s"),
        ([], "it is gone, and was of fence 4"),
        ([lease(math.nan, expires_s=1020)], "nan s are left of it"),
        ([lease(math.inf, expires_s=1020)], "inf s are left of it"),
    ],
)
def test_an_answer_older_than_what_is_believed_is_no_word_and_the_countdown_goes_on(answers, doubt):
    known, _ = told(on_trial(), LIVE, at=1001)
    after, doubts = told(known, *answers, at=1005)
    assert doubts == {"flights": doubt}
    assert after.words == known.words
    assert why(after, 1015.9) is None
    assert "expired" in why(after, 1016)


def test_a_lease_given_back_is_not_held_again_under_its_fence():
    known, doubts = told(on_trial(), lease(0, asked_at=1001, holder=None), at=1001)
    assert doubts == {}
    known, doubts = told(known, lease(15, asked_at=1002), at=1002)
    assert doubts == {"flights": "run-1 holds it under fence 4, which had been given back"}
    assert "nobody holds" in why(known, 1002)


def test_an_expiry_that_moves_back_and_forth_never_puts_the_end_off():
    known = on_trial()
    for at in range(1001, 1016):
        answer = lease(1016 - at, expires_s=1016) if at % 2 else lease(1010 - at, expires_s=1010)
        known, doubts = told(known, answer, at=at)
        assert bool(doubts) == (at % 2 == 0)
        assert why(known, at) is None
    assert "expired" in why(known, 1016)


def test_a_renewal_is_believed_and_a_new_fence_is_a_new_owner():
    known, _ = told(on_trial(), LIVE, at=1001)
    known, doubts = told(known, lease(15, asked_at=1006), at=1006)
    assert (doubts, why(known, 1020.9)) == ({}, None)
    known, doubts = told(known, lease(2, asked_at=1007, holder="rollback", fence=5), at=1007)
    assert (doubts, why(known, 1008.9)) == ({}, None)
    assert "rollback (fence 5) expired" in why(known, 1009)


def test_a_ledger_restored_from_a_backup_is_believed_again_once_nothing_is_at_stake():
    known, _ = told(on_trial(), lease(15, fence=9), at=1001)
    _, doubts = told(known, lease(15, fence=2), at=1002)
    assert doubts
    home = core.seen(known, "flights", Split(weights={"flights-v1": 100}, champion="flights-v1", fence=5), 1003)
    known, doubts = told(home, lease(15, asked_at=1004, fence=5), at=1004)
    assert doubts == {}
    known = core.seen(known, "flights", Split(**{**vars(SPLIT), "fence": 5}), 1005)
    known, doubts = told(known, lease(15, asked_at=1006, fence=5), at=1006)
    assert doubts == {}
    assert why(known, 1007, Split(**{**vars(SPLIT), "fence": 5})) is None


def test_the_patience_begins_with_the_fence_and_not_with_each_look():
    known = core.seen(Knowledge(), "flights", SPLIT, 1000)
    known = core.seen(known, "flights", SPLIT, 1010)
    assert known.trials == {"flights": Trial(4, 1000)}
    taken_over = core.seen(known, "flights", Split(**{**vars(SPLIT), "fence": 5}), 1012)
    assert taken_over.trials == {"flights": Trial(5, 1012)}


def test_a_delivery_without_candidates_or_champion_is_left_alone():
    quiet = Split(weights={"flights-v1": 100}, champion="flights-v1", fence=4)
    assert core.seen(on_trial(), "flights", quiet, 1001).trials == {}
    assert why(Knowledge(), 9999, quiet) is None
    first = Split(weights={"flights-v1": 100}, champion=None)
    assert why(core.seen(Knowledge(), "flights", first, 1001), 9999, first) is None


WORD = Word("run-1", 4, 1020.0, 1001.0, 1001.0, 1016.0)


def test_after_a_restart_what_was_known_still_holds():
    known = Knowledge({"flights": WORD}, on_trial().trials)
    assert core.after_restart(known, 1010, same_boot=True) == known


def test_after_a_reboot_no_lease_holds_and_the_silence_counts_from_the_boot():
    known = core.after_restart(Knowledge({"flights": WORD}, on_trial().trials), 10, same_boot=False)
    assert known == Knowledge(trials={"flights": Trial(4, 0.0)})
    assert core.seen(known, "flights", SPLIT, 10) == known
    assert why(known, 14.9) is None
    assert "has not answered for 15 s" in why(known, 15)


def test_what_claims_to_be_from_the_future_is_dropped():
    known = Knowledge({"flights": WORD}, on_trial().trials)
    assert core.after_restart(known, 999, same_boot=True) == Knowledge()


def test_only_what_is_at_stake_is_kept():
    known = Knowledge({"flights": WORD, "other": WORD}, on_trial().trials)
    assert core.at_stake(known) == Knowledge({"flights": WORD}, on_trial().trials)


ANSWERS = st.lists(
    st.none()
    | st.builds(
        lease,
        st.floats(-100, 1e9) | st.sampled_from([math.nan, math.inf, -math.inf]),
        holder=st.sampled_from([None, "run-1", "run-2"]),
        fence=st.integers(0, 9),
        expires_s=st.floats(0, 1e9),
    ),
    max_size=20,
)


@given(ANSWERS)
def test_whatever_the_ledger_said_its_silence_ends_with_the_champion(answers):
    known, rules = on_trial(), Rules(patience_s=15, longest_s=20)
    for at, answer in enumerate(answers, start=1001):
        known, _ = told(known, *([answer] if answer else []), at=at, rules=rules)
    assert why(known, 1001 + len(answers) + 20) is not None


@given(ANSWERS, st.integers(0, 3))
def test_no_holder_below_the_traffics_fence_keeps_its_candidates(answers, fence):
    known = on_trial()
    for at, answer in enumerate(answers, start=1001):
        lower = answer.model_copy(update={"fence": min(answer.fence, fence)}) if answer else None
        known, _ = told(known, *([lower] if lower else []), at=at)
    assert why(known, 1001 + len(answers) + 15) is not None
