"""The ledger on Postgres: leases with fencing numbers, rollouts, an append-only event log, requests, quarantine counts.

Expiries are reckoned by the database's clock alone. Each call opens a connection of its own: a call now and then needs
no pool, and nothing stale is left behind when Postgres restarts.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import parse_dsn
from psycopg2.extras import Json, RealDictCursor

from tidegate.clients.records import Event, Lease, Rollout, Wish, held_by_other, lost, open_of, still_open
from tidegate.errors import DataError, SpecError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tidegate.handoff import ValidatedSlice

__all__ = ["Event", "Lease", "Ledger", "Rollout"]

_SCHEMA_LOCK = 7_233_401  # any number of our own, for pg_advisory_xact_lock
_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS tidegate;
CREATE TABLE IF NOT EXISTS tidegate.leases (
    delivery text PRIMARY KEY, holder text, fence bigint NOT NULL, expires_at timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS tidegate.rollouts (
    id text PRIMARY KEY, delivery text NOT NULL, champion text, candidate text NOT NULL, weights int[] NOT NULL,
    phase text NOT NULL, weight int NOT NULL DEFAULT 0, outcome text, reason text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(), ended_at timestamptz
);
ALTER TABLE tidegate.rollouts
    ADD COLUMN IF NOT EXISTS mirrors int[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS deadline_s float8 NOT NULL DEFAULT 3600,
    ADD COLUMN IF NOT EXISTS bake_s float8 NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS stage int NOT NULL DEFAULT -1, ADD COLUMN IF NOT EXISTS stage_at timestamptz,
    ADD COLUMN IF NOT EXISTS paused_by text, ADD COLUMN IF NOT EXISTS promote_by text;
CREATE UNIQUE INDEX IF NOT EXISTS one_open_rollout ON tidegate.rollouts (delivery) WHERE outcome IS NULL;
CREATE TABLE IF NOT EXISTS tidegate.events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, rollout_id text, delivery text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(), kind text NOT NULL, actor text NOT NULL, fence bigint,
    detail jsonb NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_delivery ON tidegate.events (delivery, id);
CREATE OR REPLACE FUNCTION tidegate.refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the event log is append-only: % refused', TG_OP; END $$;
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tidegate.events
    FOR EACH STATEMENT EXECUTE FUNCTION tidegate.refuse_change();
CREATE TABLE IF NOT EXISTS tidegate.requests (
    delivery text, request_id text, payload jsonb NOT NULL, claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    handed_on_at timestamptz, PRIMARY KEY (delivery, request_id)
);
CREATE TABLE IF NOT EXISTS tidegate.quarantine (
    delivery text, source text, window_id text, reason text, rows bigint NOT NULL,
    PRIMARY KEY (delivery, source, window_id, reason)
);
"""
_SCHEMA_ID = hashlib.sha256(_SCHEMA.encode()).hexdigest()[:16]
_REMAINING = "extract(epoch FROM expires_at - clock_timestamp())::float8 AS remaining_s"
_READ_AT = "clock_timestamp() AS read_at"
_TTL = "clock_timestamp() + make_interval(secs => %s)"


class Ledger:
    """Leases, rollouts, events, requests and quarantine counts in one Postgres database.

    Every method raises Unavailable, which names the address and the time-out, where Postgres does not answer.

    Args:
        dsn: a libpq address; its password never appears in an error.
        timeout_s: seconds to connect, and the most a statement may take.
    """

    def __init__(self, dsn: str, timeout_s: int = 3):
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._made = False
        try:
            parts = parse_dsn(dsn)
        except psycopg2.ProgrammingError:
            # not chained: libpq's message repeats parts of the address, and the password may be one of them
            raise SpecError("the ledger's address is no libpq address; write postgresql://user@host:port/db") from None
        self.address = f"{parts.get('host', 'localhost')}:{parts.get('port', '5432')}"

    def acquire(self, delivery: str, holder: str, ttl_s: float, *, floor: int = 0, seize: bool = False) -> Lease:
        """Take the lease, or put its expiry off where the holder has it already.

        Args:
            delivery: what traffic it is about.
            holder: a name of the caller that stays the same over its retries.
            ttl_s: seconds until it expires unless renewed.
            floor: a new fence is at least this; pass the one that traffic has recorded.
            seize: take it over from another holder, as the way back may.

        Raises:
            LeaseLost: another one holds it, unexpired.
        """
        with self._cursor() as cursor:
            cursor.execute(
                "INSERT INTO tidegate.leases VALUES (%s, NULL, 0, now()) ON CONFLICT DO NOTHING", (delivery,)
            )
            cursor.execute(
                f"SELECT *, {_REMAINING} FROM tidegate.leases WHERE delivery = %s FOR UPDATE",  # noqa: S608 # constant
                (delivery,),
            )
            old = Lease.model_validate(_one(cursor))
            if old.live and old.holder != holder and not seize:
                raise held_by_other(old, holder)
            fence = old.fence if old.live and old.holder == holder else max(old.fence + 1, floor)
            cursor.execute(
                f"UPDATE tidegate.leases SET holder = %s, fence = %s, expires_at = {_TTL} "  # noqa: S608 # constant
                f"WHERE delivery = %s RETURNING *, {_REMAINING}",
                (holder, fence, ttl_s, delivery),
            )
            return Lease.model_validate(_one(cursor))

    def renew(self, lease: Lease, ttl_s: float) -> Lease:
        """Put the expiry off by `ttl_s` seconds from now.

        Raises:
            LeaseLost: it has expired or has another holder.
        """
        with self._cursor() as cursor:
            cursor.execute(
                f"UPDATE tidegate.leases SET expires_at = {_TTL} WHERE delivery = %s AND holder = %s "  # noqa: S608
                f"AND fence = %s AND expires_at > clock_timestamp() RETURNING *, {_REMAINING}",  # constants
                (ttl_s, lease.delivery, lease.holder, lease.fence),
            )
            row = cursor.fetchone()
        if row is None:
            raise lost(lease)
        return Lease.model_validate(dict(row))

    def release(self, lease: Lease) -> None:
        """Give the lease back; does nothing if somebody else has it by now."""
        with self._cursor() as cursor:
            cursor.execute(
                "UPDATE tidegate.leases SET holder = NULL, expires_at = clock_timestamp() "
                "WHERE delivery = %s AND holder = %s AND fence = %s",
                (lease.delivery, lease.holder, lease.fence),
            )

    def lease(self, delivery: str) -> Lease | None:
        """Return the last lease of a delivery; None if there never was one."""
        return next((lease for lease in self.leases() if lease.delivery == delivery), None)

    def leases(self) -> list[Lease]:
        """Return the last lease of every delivery."""
        with self._cursor() as cursor:
            cursor.execute(f"SELECT *, {_REMAINING} FROM tidegate.leases ORDER BY delivery")  # noqa: S608 # constant
            return [Lease.model_validate(dict(row)) for row in cursor.fetchall()]

    def begin_rollout(self, rollout: Rollout) -> Rollout:
        """Record a rollout that begins now; returns the one recorded under its id if there is one.

        Raises:
            Conflict: another rollout of the delivery has not ended.
        """
        with self._cursor() as cursor:
            cursor.execute(
                "INSERT INTO tidegate.rollouts (id, delivery, champion, candidate, weights, mirrors, deadline_s, "
                "bake_s, phase, stage_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp()) "
                "ON CONFLICT DO NOTHING",
                (
                    rollout.id, rollout.delivery, rollout.champion, rollout.candidate, list(rollout.weights),
                    list(rollout.mirrors), rollout.deadline_s, rollout.bake_s, rollout.phase,
                ),
            )  # fmt: skip
        known = self.rollout(rollout.id)
        if known is not None:
            return known
        other = open_of(self.rollouts(rollout.delivery))
        if other is None:
            raise Unavailable(f"rollout {rollout.id} of {rollout.delivery} could not be recorded just now: try again")
        raise still_open(other)

    def update_rollout(
        self, rollout_id: str, phase: str, weight: int, outcome: str | None = None, reason: str = "", stage: int = -1
    ) -> None:
        """Record how far a rollout has come, and when it entered this phase and stage; with an outcome it has ended.

        Raises:
            DataError: there is no such rollout.
        """
        with self._cursor() as cursor:
            cursor.execute(
                "UPDATE tidegate.rollouts SET stage_at = CASE WHEN phase = %(phase)s AND stage = %(stage)s "
                "THEN stage_at ELSE clock_timestamp() END, phase = %(phase)s, stage = %(stage)s, weight = %(weight)s, "
                "outcome = %(outcome)s, reason = coalesce(%(reason)s, reason), "
                "ended_at = CASE WHEN %(ended)s THEN clock_timestamp() END WHERE id = %(id)s",
                {
                    "phase": phase, "stage": stage, "weight": weight, "outcome": outcome, "reason": reason or None,
                    "ended": outcome is not None, "id": rollout_id,
                },
            )  # fmt: skip
            if cursor.rowcount == 0:
                raise DataError(f"there is no rollout {rollout_id}: begin it first")

    def ask(self, rollout_id: str, wish: Wish, actor: str) -> None:
        """Record what a person asks of the one who watches a rollout: to pass no stage for now, or not to wait.

        Raises:
            DataError: there is no such rollout.
        """
        change = {"pause": "paused_by = %s", "resume": "paused_by = nullif(%s, %s)", "promote": "promote_by = %s"}[wish]
        values = (actor, actor) if wish == "resume" else (actor,)
        with self._cursor() as cursor:
            cursor.execute(f"UPDATE tidegate.rollouts SET {change} WHERE id = %s", (*values, rollout_id))  # noqa: S608
            if cursor.rowcount == 0:
                raise DataError(f"there is no rollout {rollout_id}: begin it first")

    def rollout(self, rollout_id: str) -> Rollout | None:
        """Return a rollout by its id."""
        with self._cursor() as cursor:
            cursor.execute(f"SELECT *, {_READ_AT} FROM tidegate.rollouts WHERE id = %s", (rollout_id,))  # noqa: S608 # constant
            row = cursor.fetchone()
        return None if row is None else Rollout.model_validate(dict(row))

    def rollouts(self, delivery: str | None = None, limit: int = 20) -> list[Rollout]:
        """Return a delivery's rollouts (or everybody's), the newest first."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT *, {_READ_AT} FROM tidegate.rollouts WHERE %s::text IS NULL OR delivery = %s "  # noqa: S608
                "ORDER BY started_at DESC, id DESC LIMIT %s",  # constant
                (delivery, delivery, limit),
            )
            return [Rollout.model_validate(dict(row)) for row in cursor.fetchall()]

    def log(
        self,
        delivery: str,
        kind: str,
        actor: str,
        *,
        fence: int | None = None,
        rollout_id: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Append an event; the database refuses to change or delete it ever after."""
        with self._cursor() as cursor:
            cursor.execute(
                "INSERT INTO tidegate.events (rollout_id, delivery, kind, actor, fence, detail) "
                "VALUES (%s, %s, %s, %s, %s, %s)",
                (rollout_id, delivery, kind, actor, fence, Json(dict(detail or {}))),
            )

    def logged(self, delivery: str, revision: int) -> bool:
        """Whether an event of this traffic revision is in the log."""
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT EXISTS (SELECT 1 FROM tidegate.events WHERE delivery = %s AND detail->'revision' = %s) AS yes",
                (delivery, Json(revision)),
            )
            return bool(_one(cursor)["yes"])

    def events(self, delivery: str, rollout_id: str | None = None, limit: int = 200) -> list[Event]:
        """Return the newest events of a delivery (or of one of its rollouts), the oldest of them first."""
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT rollout_id, delivery, at, kind, actor, fence, detail FROM tidegate.events "
                "WHERE delivery = %s AND (%s::text IS NULL OR rollout_id = %s) ORDER BY id DESC LIMIT %s",
                (delivery, rollout_id, rollout_id, limit),
            )
            return [Event.model_validate(dict(row)) for row in reversed(cursor.fetchall())]

    def claim_request(self, delivery: str, request_id: str, payload: Mapping[str, Any]) -> bool:
        """Claim a request to retrain: True the first time, False ever after."""
        with self._cursor() as cursor:
            cursor.execute(
                "INSERT INTO tidegate.requests (delivery, request_id, payload) VALUES (%s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                (delivery, request_id, Json(dict(payload))),
            )
            return cursor.rowcount == 1

    def request(self, delivery: str, request_id: str) -> dict[str, Any] | None:
        """Return the payload of a claimed request; None for an unknown one."""
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT payload FROM tidegate.requests WHERE delivery = %s AND request_id = %s", (delivery, request_id)
            )
            row = cursor.fetchone()
        return None if row is None else dict(row["payload"])

    def open_requests(self, delivery: str) -> list[str]:
        """Return the ids of claimed requests that were not handed on yet, the oldest first."""
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT request_id FROM tidegate.requests WHERE delivery = %s AND handed_on_at IS NULL "
                "ORDER BY claimed_at, request_id",
                (delivery,),
            )
            return [str(row["request_id"]) for row in cursor.fetchall()]

    def hand_on_request(self, delivery: str, request_id: str) -> None:
        """Record that a request was handed on to training; does nothing the second time."""
        with self._cursor() as cursor:
            cursor.execute(
                "UPDATE tidegate.requests SET handed_on_at = clock_timestamp() "
                "WHERE delivery = %s AND request_id = %s AND handed_on_at IS NULL",
                (delivery, request_id),
            )

    def record_slice(self, validated: ValidatedSlice) -> None:
        """Record a slice's quarantined rows by reason; the same slice again counts once, and counts never fall."""
        of = validated.slice
        with self._cursor() as cursor:
            for reason, rows in sorted(validated.reasons.items()):
                cursor.execute(
                    "INSERT INTO tidegate.quarantine AS q VALUES (%s, %s, %s, %s, %s) "
                    "ON CONFLICT (delivery, source, window_id, reason) "
                    "DO UPDATE SET rows = greatest(q.rows, excluded.rows)",
                    (of.delivery, of.source, of.window.id, reason, rows),
                )

    def quarantined(self) -> dict[tuple[str, str, str], int]:
        """Return all rows ever quarantined by (delivery, source, reason)."""
        with self._cursor() as cursor:
            cursor.execute(
                "SELECT delivery, source, reason, sum(rows)::bigint AS rows FROM tidegate.quarantine "
                "GROUP BY delivery, source, reason"
            )
            return {(row["delivery"], row["source"], row["reason"]): int(row["rows"]) for row in cursor.fetchall()}

    @contextmanager
    def _cursor(self) -> Iterator[RealDictCursor]:
        try:
            connection = psycopg2.connect(
                self._dsn,
                connect_timeout=self._timeout_s,
                options=f"-c statement_timeout={self._timeout_s * 1000} -c lock_timeout={self._timeout_s * 1000}",
                application_name="tidegate-ledger",
            )
        except psycopg2.OperationalError as error:
            raise self._unavailable(error) from error
        try:
            if not self._made:
                _make_tables(connection)
                self._made = True
            with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
                yield cursor
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise self._unavailable(error) from error
        finally:
            connection.close()

    def _unavailable(self, error: psycopg2.Error) -> Unavailable:
        first = str(error).strip().splitlines() or [type(error).__name__]
        return Unavailable(
            f"the ledger's Postgres at {self.address} did not answer within {self._timeout_s} s ({first[0]}); "
            "tidegate status shows whether it runs"
        )


def _make_tables(connection: Any) -> None:
    """Make the tables unless the schema's comment says that these very ones are there already."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT obj_description(to_regnamespace('tidegate'), 'pg_namespace')")
        if cursor.fetchone() == (_SCHEMA_ID,):
            return
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        cursor.execute(_SCHEMA)
        cursor.execute("COMMENT ON SCHEMA tidegate IS %s", (_SCHEMA_ID,))


def _one(cursor: RealDictCursor) -> dict[str, Any]:
    row = cursor.fetchone()
    if row is None:
        raise DataError("the ledger gave no row where there must be one: its tables were changed by hand")
    return dict(row)
