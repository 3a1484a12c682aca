"""Gangs watched by a trigger: what it says, and that it outlives the API server and its own restart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.cluster.bed import Bed, pods_here
from tests.cluster.test_gang import gang
from tidegate.delivery import project_root
from tidegate.delivery.pods import PodsSpec
from tidegate.errors import Permanent
from tidegate.launch.kubernetes_watch import shared_watch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


async def followed(bed: Bed, name: str, said: list[str] | None = None) -> list[str]:
    """Return each new detail of a gang, and the phase in which it ended."""
    found = []
    async with shared_watch(bed.access) as watch:
        telling = asyncio.create_task(watch.tell(name, (said if said is not None else []).append))
        async for state in watch.states(name):
            found.append(state.detail or state.phase)
        telling.cancel()
    return found


async def test_many_wait_by_one_watch_and_each_is_told_of_its_own(bed: Bed, pods: PodsSpec):
    names = [f"gang-{number}" for number in range(3)]
    for name in names:
        await asyncio.to_thread(bed.launcher.start, gang(pods, name=name, hold=1))
    told = await asyncio.wait_for(asyncio.gather(*(followed(bed, name) for name in names)), 120)
    for each in told:
        assert each[-1] == "succeeded"
        assert "2 of 2 members run" in each


async def test_the_account_of_deploy_may_do_all_that_a_gang_needs(bed: Bed, pods: PodsSpec, tmp_path: Any):
    bed.kubectl("apply", "-k", str(project_root() / "deploy" / "kubernetes"))
    ours = bed.as_account("tidegate-launcher", tmp_path)
    wanted = gang(pods, hold=1)
    await asyncio.to_thread(ours.launcher.start, wanted)
    assert (await asyncio.wait_for(followed(ours, wanted.name), 120))[-1] == "succeeded"
    assert "member 1 is done" in await asyncio.to_thread(ours.launcher.logs, wanted.name)
    held = gang(pods, name="held", hold=300)
    await asyncio.to_thread(ours.launcher.start, held)
    assert [each.name for each in await asyncio.to_thread(ours.launcher.gangs, "flights")] == ["held"]
    await asyncio.to_thread(ours.launcher.stop, "held")
    assert not [thing for thing in bed.left() if "held" in thing]


async def test_progress_of_member_0_is_passed_on_as_it_is_printed(bed: Bed, pods: PodsSpec):
    wanted = gang(pods, hold=5, dated=True)
    await asyncio.to_thread(bed.launcher.start, wanted)
    said: list[str] = []
    await asyncio.wait_for(followed(bed, wanted.name, said), 120)
    assert any("epoch 1/1" in line for line in said)


async def test_a_gang_is_followed_through_a_restart_of_the_api_server(bed: Bed, pods: PodsSpec):
    wanted = gang(pods, hold=25)
    await asyncio.to_thread(bed.launcher.start, wanted)
    following = asyncio.create_task(followed(bed, wanted.name))
    await asyncio.sleep(3)
    await asyncio.to_thread(bed.ctl, "stop", "kube-apiserver", SIG="KILL")
    await asyncio.sleep(3)
    await asyncio.to_thread(bed.ctl, "start", "kube-apiserver")
    told = await asyncio.wait_for(following, 200)
    assert told[-1] == "succeeded"


async def test_a_gang_that_waits_too_long_is_told_without_an_event(bed: Bed, tmp_path: Any):
    wanted = gang(pods_here(tmp_path, gpus=1, gpu="example.com/gpu", within=4.0))
    await asyncio.to_thread(bed.launcher.start, wanted)
    told = await asyncio.wait_for(followed(bed, wanted.name), 60)
    assert any("waits for a node" in each for each in told[:-1])
    assert told[-1] == "failed"


async def test_a_gang_that_someone_deletes_is_gone(bed: Bed, pods: PodsSpec):
    wanted = gang(pods, hold=300)
    await asyncio.to_thread(bed.launcher.start, wanted)
    following = asyncio.create_task(followed(bed, wanted.name))
    await asyncio.sleep(2)
    await asyncio.to_thread(bed.kubectl, "delete", "jobs", "--all", "--cascade=foreground")
    assert (await asyncio.wait_for(following, 60))[-1] == "absent"


async def test_an_account_that_may_not_look_is_told_so(bed: Bed, tmp_path: Any):
    bed.kubectl("create", "serviceaccount", "blind")
    blind = bed.as_account("blind", tmp_path)
    with pytest.raises(Permanent, match="does not allow to list"):
        await asyncio.wait_for(followed(blind, "gang"), 30)
