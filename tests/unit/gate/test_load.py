from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from tidegate.gate.load import NO_ANSWER, Answer, drive, fixed, poisson

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/infer", handler)
    async with TestServer(app, host="127.0.0.1") as server:
        yield str(server.make_url("/infer"))


async def fine(_: web.Request) -> web.Response:
    return web.Response(text="{}")


def test_a_fixed_schedule_has_rate_times_seconds_instants() -> None:
    assert list(fixed(4, 1)) == [0, 0.25, 0.5, 0.75]
    assert len(list(fixed(100, 8))) == 800


def test_a_poisson_schedule_keeps_its_rate_and_repeats_with_its_seed() -> None:
    instants = list(poisson(100, 100, seed=1))
    assert instants == list(poisson(100, 100, seed=1)) != list(poisson(100, 100, seed=2))
    assert instants == sorted(instants)
    assert 9500 < len(instants) < 10500


async def test_a_stalled_server_is_felt_by_every_request_that_was_due_meanwhile() -> None:
    free = asyncio.Event()

    async def stalled(_: web.Request) -> web.Response:
        await free.wait()
        return web.Response()

    answers: list[Answer] = []
    async with serving(stalled) as url:
        driving = asyncio.ensure_future(drive([b"{}"], url, fixed(100, 0.3), answers.append, in_flight=1))
        await asyncio.sleep(0.3)
        freed_at = time.time()
        free.set()
        await driving
    assert len(answers) == 30
    waited = [answer for answer in answers if answer.scheduled_at < freed_at - 0.05]
    # One connection sent a single request before the server went on; a closed loop would have seen one slow answer.
    assert len(waited) > 10
    assert all(answer.scheduled_at + answer.latency_s >= freed_at - 0.01 for answer in waited)


async def test_rows_are_sent_in_turn_and_again_from_the_first() -> None:
    seen: list[bytes] = []

    async def listen(request: web.Request) -> web.Response:
        seen.append(await request.read())
        return web.Response()

    async with serving(listen) as url:
        await drive([b"a", b"b"], url, [0.0, 0.02, 0.04], lambda _: None, in_flight=1)
    assert seen == [b"a", b"b", b"a"]


async def test_status_version_and_upstream_come_from_the_proxys_answer() -> None:
    replies = itertools.cycle(
        [
            web.Response(headers={"x-tidegate-version": "flights-v2", "x-envoy-upstream-service-time": "1"}),
            web.Response(status=503),
        ]
    )

    async def proxy(_: web.Request) -> web.StreamResponse:
        return next(replies)

    answers: list[Answer] = []
    async with serving(proxy) as url:
        await drive([b"{}"], url, [0.0, 0.05], answers.append, in_flight=1)
    assert [answer[2:] for answer in answers] == [(200, "flights-v2", True), (503, None, False)]


async def test_no_server_and_no_answer_in_time_are_answers_too() -> None:
    answers: list[Answer] = []
    await drive([b"{}"], f"http://127.0.0.1:{unused_port()}/infer", [0.0, 0.01], answers.append)
    never = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    async with serving(silent) as url:
        await drive([b"{}"], url, [0.0], answers.append, timeout_s=0.1)
        never.set()
    assert [answer.status for answer in answers] == [NO_ANSWER] * 3
    assert answers[2].latency_s >= 0.1


async def test_stopping_sends_nothing_more_and_awaits_what_is_on_its_way() -> None:
    stop = asyncio.Event()
    answers: list[Answer] = []

    def count(answer: Answer) -> None:
        answers.append(answer)
        if len(answers) == 5:
            stop.set()

    async with serving(fine) as url:
        await asyncio.wait_for(drive([b"{}"], url, fixed(200), count, stop), timeout=10)
        seen = len(answers)
        await asyncio.sleep(0.05)
    assert len(answers) == seen >= 5
