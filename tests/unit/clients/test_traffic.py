"""The rules of a split, as the fake and every backend hold them."""

import pytest

from tidegate.clients.traffic import FakeTraffic, Routing, Split, drained, routed, unrouted
from tidegate.errors import Conflict, DataError

ONE, TWO, THREE = "flights-v1", "flights-v2", "flights-v3"


@pytest.fixture
def traffic():
    made = FakeTraffic()
    for number, name in enumerate((ONE, TWO, THREE)):
        made.route("flights", name, f"127.0.0.1:{9001 + number}")
    write(made, {ONE: 100})
    return made


def write(traffic, weights, champion=ONE, mirrors=None):
    before = traffic.read("flights")
    return traffic.write(
        "flights", weights, champion=champion, expected=before.revision, fence=before.fence, mirrors=mirrors
    )


def test_on_trial_is_who_sees_live_requests_without_being_the_champion(traffic):
    split = write(traffic, {ONE: 90, TWO: 10}, mirrors={TWO: 50, THREE: 30})
    assert split.on_trial == {TWO: 10, THREE: 30}
    assert split.candidates == {TWO: 10}
    assert Split().on_trial == {}


def test_callers_are_never_shared_between_versions_that_speak_otherwise(traffic):
    with pytest.raises(DataError, match=r"flights-v4 speaks tfserving, .*flights-v3 kserve: callers cannot be shared"):
        traffic.route("flights", "flights-v4", "127.0.0.1:9004", Routing(protocol="tfserving"))
    alone = routed(Split(), ONE, "127.0.0.1:9001", Routing(protocol="tfserving"))
    assert routed(alone, ONE, "127.0.0.1:9001", Routing()).routing.protocol == "kserve"


def test_a_write_without_mirrors_ends_mirroring(traffic):
    write(traffic, {ONE: 100}, mirrors={TWO: 100})
    split = traffic.read("flights")
    assert write(traffic, split.all_to(ONE)).mirrors == {}


@pytest.mark.parametrize(
    ("mirrors", "why"),
    [
        ({TWO: 0}, "mirror of 0% to flights-v2 .* is not within 1 to 100"),
        ({TWO: 101}, "mirror of 101% to flights-v2 .* is not within 1 to 100"),
        ({ONE: 50}, "flights-v1 is the champion of flights"),
        ({"flights-v9": 50}, "flights-v9 of flights has no route"),
    ],
)
def test_impossible_mirrors_are_refused_and_change_nothing(traffic, mirrors, why):
    before = traffic.read("flights")
    with pytest.raises(DataError, match=why):
        write(traffic, {ONE: 100}, mirrors=mirrors)
    assert traffic.read("flights") == before


def test_a_version_that_becomes_the_champion_cannot_stay_a_mirror(traffic):
    write(traffic, {ONE: 100}, mirrors={TWO: 100})
    with pytest.raises(DataError, match="champion"):
        write(traffic, {TWO: 100}, champion=TWO, mirrors={TWO: 100})
    assert write(traffic, {TWO: 100}, champion=TWO).mirrors == {}


def test_a_mirrored_version_keeps_its_route(traffic):
    write(traffic, {ONE: 100}, mirrors={TWO: 5})
    with pytest.raises(Conflict, match="5% of flights is mirrored to flights-v2"):
        traffic.unroute("flights", TWO)
    write(traffic, {ONE: 100})
    assert TWO not in traffic.unroute("flights", TWO).endpoints


def test_the_fake_confirms_mirrors_only_when_asked(traffic):
    write(traffic, {ONE: 100}, mirrors={TWO: 5})
    traffic.confirm("flights", {ONE: 100})
    traffic.confirm("flights", {ONE: 100}, {TWO: 5})
    for wrong in ({}, {TWO: 6}):
        with pytest.raises(Conflict, match="mirrored as"):
            traffic.confirm("flights", {ONE: 100}, wrong)


def test_a_routing_is_kept_until_another_one_is_given(traffic):
    sticky = Routing(sticky_header="x-user")
    before = traffic.read("flights")
    after = traffic.route("flights", TWO, before.endpoints[TWO], sticky)
    assert (after.routing, after.revision, after.weights) == (sticky, before.revision + 1, before.weights)
    assert traffic.route("flights", TWO, before.endpoints[TWO]) == after
    assert traffic.route("flights", TWO, before.endpoints[TWO], sticky) == after
    assert write(traffic, {ONE: 100}).routing == sticky
    assert traffic.route("flights", TWO, before.endpoints[TWO], Routing()).routing == Routing()


@pytest.mark.parametrize("name", ["", "x user", "x:user", ":path", "x-user\n", "näme", "a;b"])
@pytest.mark.parametrize("field", ["sticky_header", "sticky_cookie", "pin_header"])
def test_a_name_that_no_header_or_cookie_can_have_is_refused(field, name):
    with pytest.raises(DataError, match="cannot be the name of a"):
        Routing(**{field: name})


def test_a_header_that_the_proxy_removes_is_refused():
    with pytest.raises(DataError, match="the proxy removes x-envoy-"):
        Routing(pin_header="X-Envoy-Pin")


def test_a_version_drains_until_its_last_answer_and_may_come_back_before(traffic):
    split = traffic.read("flights")
    address = split.endpoints[TWO]
    going = unrouted("flights", split, TWO, drains=True)
    assert (going.draining, TWO in going.weights) == ({TWO: address}, False)
    gone = drained(going, TWO)
    assert (gone.draining, gone.revision) == ({}, going.revision)
    assert drained(gone, TWO) is gone
    back = routed(going, TWO, address)
    assert (back.draining, back.endpoints[TWO], back.weights[TWO]) == ({}, address, 0)
