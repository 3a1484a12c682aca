"""The dead-man's switch: once a second, candidate traffic without a live owner goes back to the champion.

A process of its own (`python -m tidegate.guard`) that needs neither Airflow nor Prometheus. It asks the ledger who owns
the traffic, and keeps what it was told on disk, by a clock that runs on over its own restarts (CLOCK_BOOTTIME, with the
boot's id). What it does with candidates that have traffic:

| what it sees                                            | what it does                                              |
| ------------------------------------------------------- | --------------------------------------------------------- |
| a live lease with the traffic's fence, or a higher one  | nothing                                                   |
| an expired lease, one given back, or none ever          | champion, at once                                         |
| a lease with a lower fence than the traffic's           | champion, at once: its holder does not own this traffic   |
| no word; a lease heard of earlier                       | counts down to its last known expiry, then champion       |
| no word about these candidates since they came          | champion after the patience, 15 s, over its own restarts  |
| a lease that runs longer than any may (120 s)           | believed for 120 s from when that expiry was first heard  |
| a fence that went back, a lease that vanished or was    | no word: an older state than before (a backup, a stale    |
| taken up again under its fence, an expiry that went     | replica). The last believed word is counted down; counted |
| back, a remaining time that is no number                | as `tidegate_guard_disbelieved_total`                     |
| an answer that is none (an error, a table that is gone) | no word                                                   |
| what it kept from an earlier boot                       | no lease of it; but candidates that were there before the |
|                                                         | boot have been without a word since the boot              |
| its own first look, or one after it was stopped         | asks the ledger first; acts after the answer, or after    |
| (SIGSTOP, a suspended machine) for more than 3 s        | 4 s without one                                           |

No candidates, nothing at stake: then the ledger's next answer is believed as it is, also after a restore.

It acts by compare-and-set on the very split it judged, under the next fence. Two guards may run on one traffic folder:
the second one's write finds another revision, and its next look finds no candidates. What it did while the ledger was
away is logged when `reconcile` next finds a traffic change that the log missed.
"""
