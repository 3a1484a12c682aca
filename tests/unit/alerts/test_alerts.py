"""The rules of a delivery: their structure, and what promtool says of them on series."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tidegate import alerts
from tidegate.delivery import Limits, deliveries_folder, project_root, read_delivery
from tidegate.stack import cache

FLIGHTS = read_delivery(deliveries_folder() / "flights.yaml")
STATIC = project_root() / "deploy" / "monitoring" / "rules.yaml"


def limited(errors=0.01, p99=0.5, name="flights"):
    rollout = FLIGHTS.rollout.model_copy(update={"limits": Limits(errors=errors, p99=p99)})
    return FLIGHTS.model_copy(update={"rollout": rollout, "delivery": name})


def by_name(made):
    return {rule["alert"]: rule for group in made["groups"] for rule in group["rules"] if "alert" in rule}


def test_the_alerts_of_a_delivery_are_these():
    assert list(by_name(alerts.rules(FLIGHTS))) == [
        "CandidateErrors",
        "CandidateP99",
        "ChampionErrors",
        "ChampionErrorsSlowly",
        "ChampionP99",
        "ChampionWithoutFigures",
    ]


def test_only_alerts_about_a_candidate_start_a_rollback():
    for name, rule in by_name(alerts.rules(FLIGHTS)).items():
        assert (rule["labels"].get("action") == "rollback") == name.startswith("Candidate"), name
        assert f'role="{rule["labels"]["role"]}"' in rule["expr"], name


def test_every_alert_says_how_bad_it_is_what_it_saw_its_limit_and_the_remedy():
    for name, rule in by_name(alerts.rules(FLIGHTS)).items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["labels"]["delivery"] == "flights"
        assert set(rule["annotations"]) == {"summary", "value", "limit", "remedy"}


def test_the_limits_are_the_deliverys_own():
    made = by_name(alerts.rules(limited(errors=0.025, p99=0.25)))
    assert made["ChampionErrors"]["expr"].count("> 0.025\n") == 2
    assert made["ChampionErrors"]["annotations"]["limit"] == "2.5%"
    assert made["CandidateP99"]["expr"].count("> 0.25\n") == 2
    assert made["CandidateP99"]["annotations"]["limit"] == "0.25 s"


def test_two_deliveries_share_no_selector():
    for rule in alerts.rules(limited(name="planes"))["groups"][0]["rules"]:
        assert "flights" not in yaml.safe_dump(rule)


def test_files_are_written_one_per_delivery_and_gone_deliveries_are_cleared_away(tmp_path):
    (tmp_path / "mine.yaml").write_text("groups: []\n")
    first = alerts.write(tmp_path / ".", [limited(), limited(name="planes")])
    assert first == [tmp_path / "flights.yaml", tmp_path / "planes.yaml"]
    alerts.write(tmp_path, [limited(name="planes")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "planes.yaml"]
    assert yaml.safe_load((tmp_path / "planes.yaml").read_text()) == alerts.rules(limited(name="planes"))


def found_promtool() -> Path | None:
    on_path = shutil.which("promtool")
    unpacked = cache.folder() / "debian" / "prometheus-2" / "usr" / "bin" / "promtool"
    return Path(on_path) if on_path else unpacked if unpacked.exists() else None


PROMTOOL = found_promtool()
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is neither on PATH nor unpacked; `tidegate up` fetches it with Prometheus"
)


def promtool(*arguments):
    return subprocess.run((str(PROMTOOL), *map(str, arguments)), capture_output=True, text=True)


@needs_promtool
def test_promtool_accepts_the_generated_rules_and_the_static_ones(tmp_path):
    written = alerts.write(tmp_path, [limited(), limited(errors=0.0, name="planes")])
    told = promtool("check", "rules", *written, STATIC)
    assert told.returncode == 0, told.stdout + told.stderr


STEP_S = 5
MINUTE = 60 // STEP_S


def requests(version, values):
    return {"series": f'envoy_cluster_upstream_rq_completed{{envoy_cluster_name="{version}"}}', "values": values}


def failures(version, values):
    series = f'envoy_cluster_upstream_rq_xx{{envoy_cluster_name="{version}",envoy_response_code_class="5"}}'
    return {"series": series, "values": values}


def answers(version, slow, fast):
    """Buckets of a version of which `fast` answers came within 100 ms and `slow` between 1 s and 2 s, every step."""
    steps = 10 * MINUTE
    edges = {"100": fast, "1000": fast, "2000": fast + slow, "+Inf": fast + slow}
    series = 'envoy_cluster_upstream_rq_time_bucket{{envoy_cluster_name="{}",le="{}"}}'
    return [{"series": series.format(version, le), "values": f"0+{each}x{steps}"} for le, each in edges.items()]


def role(version, which, values="1x120", weight=None):
    share = weight if weight is not None else 90 if which == "champion" else 10
    return [
        {
            "series": f'tidegate_traffic_role{{delivery="flights",version="{version}",role="{which}",instance="g1"}}',
            "values": values,
        },
        {
            "series": f'tidegate_traffic_weight{{delivery="flights",version="{version}",instance="g1"}}',
            "values": values.replace("1x", f"{share}x"),
        },
    ]


def firing(tmp_path, series, at="5m", rules=None):
    """Return the names and versions of the alerts that fire at a time, as promtool's own test sees them."""
    files = rules or alerts.write(tmp_path, [limited()])
    names = [rule["alert"] for path in files for rule in _rules(path) if "alert" in rule]
    tests = {
        "rule_files": [str(path) for path in files],
        "evaluation_interval": f"{STEP_S}s",
        "tests": [
            {
                "interval": f"{STEP_S}s",
                "input_series": series,
                "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": []} for name in names],
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    told = promtool("test", "rules", file)
    found = set()
    for part in (told.stdout + told.stderr).split("alertname:")[1:]:
        name, _, rest = part.partition(",")
        got = rest.partition("got:")[2]
        versions = [one.partition('version="')[2].partition('"')[0] for one in got.split("Labels:")[1:]]
        found |= {(name.strip(), version) for version in versions}
    assert (told.returncode == 0) == (not found), told.stdout + told.stderr
    return found


def _rules(path):
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


GOOD = [*role("flights-v1", "champion"), requests("flights-v1", "0+50x120")]


@needs_promtool
def test_a_failing_candidate_fires_and_the_champion_beside_it_does_not(tmp_path):
    series = [
        *GOOD,
        *role("flights-v2", "candidate"),
        requests("flights-v2", "0+10x120"),
        failures("flights-v2", "0+1x120"),
    ]
    assert firing(tmp_path, series) == {("CandidateErrors", "flights-v2")}


@needs_promtool
def test_a_failing_champion_fires_without_asking_for_a_rollback(tmp_path):
    assert firing(tmp_path, [*GOOD, failures("flights-v1", "0+2x120")]) == {
        ("ChampionErrors", "flights-v1"),
        ("ChampionErrorsSlowly", "flights-v1"),
    }


@needs_promtool
def test_a_share_below_the_limit_fires_nothing(tmp_path):
    assert firing(tmp_path, [*GOOD, failures("flights-v1", "0+0.4x120")]) == set()


@needs_promtool
@pytest.mark.parametrize("failed", ["0x58 1x60", "0x40 1x10 2x10 3x10 4x40"])
def test_a_few_failed_requests_at_night_wake_nobody(tmp_path, failed):
    night = [*role("flights-v1", "champion"), requests("flights-v1", "0+1x120")]
    assert firing(tmp_path, [*night, failures("flights-v1", failed)]) == set()


@needs_promtool
def test_few_requests_that_all_fail_fire_nothing_at_once_but_do_over_the_hour(tmp_path):
    hour = 60 * MINUTE
    series = [
        *role("flights-v1", "champion", f"1x{hour}"),
        requests("flights-v1", f"0+0.125x{hour}"),  # one in 40 seconds
        failures("flights-v1", f"0+0.125x{hour}"),
    ]
    assert firing(tmp_path, series) == set()
    assert firing(tmp_path, series, at="50m") == {("ChampionErrorsSlowly", "flights-v1")}


@needs_promtool
def test_it_resets_a_minute_after_the_failures_end(tmp_path):
    series = [*GOOD, failures("flights-v1", "0+5x36 180x84")]  # three minutes of failures
    assert ("ChampionErrors", "flights-v1") in firing(tmp_path, series, at="3m")
    assert ("ChampionErrors", "flights-v1") not in firing(tmp_path, series, at="4m15s")


@needs_promtool
def test_a_candidate_that_was_taken_off_the_traffic_fires_nothing_more(tmp_path):
    series = [
        *GOOD,
        *role("flights-v2", "candidate", "1x48 stale"),
        requests("flights-v2", "0+10x120"),
        failures("flights-v2", "0+5x120"),
    ]
    assert firing(tmp_path, series, at="3m") == {("CandidateErrors", "flights-v2")}
    assert firing(tmp_path, series, at="4m10s") == set()


@needs_promtool
def test_counters_that_begin_anew_with_the_proxy_are_no_failures(tmp_path):
    series = [
        *role("flights-v1", "champion"),
        requests("flights-v1", "5000+50x40 0+50x80"),
        failures("flights-v1", "400x40 0x80"),
    ]
    assert firing(tmp_path, series) == set()


@needs_promtool
def test_slow_answers_fire_and_a_few_slow_ones_do_not(tmp_path):
    candidate = [*GOOD, *role("flights-v2", "candidate"), requests("flights-v2", "0+20x120")]
    assert firing(tmp_path, [*candidate, *answers("flights-v2", slow=2, fast=18)]) == {("CandidateP99", "flights-v2")}
    assert firing(tmp_path, [*candidate, *answers("flights-v2", slow=0, fast=20)]) == set()
    few = [*GOOD, *role("flights-v2", "candidate"), requests("flights-v2", "0+2x120")]
    assert firing(tmp_path, [*few, *answers("flights-v2", slow=1, fast=1)]) == set()


@needs_promtool
def test_a_champion_with_traffic_and_no_figures_is_not_silent(tmp_path):
    assert firing(tmp_path, role("flights-v1", "champion")) == {("ChampionWithoutFigures", "flights-v1")}
    assert firing(tmp_path, GOOD) == set()
    assert firing(tmp_path, [*role("flights-v1", "champion"), requests("flights-v1", "0+50x30 stale")]) == {
        ("ChampionWithoutFigures", "flights-v1")
    }
    assert firing(tmp_path, role("flights-v1", "champion", weight=0)) == set()


@needs_promtool
def test_two_guards_that_say_the_same_fire_once(tmp_path):
    second = [{**one, "series": one["series"].replace("g1", "g2")} for one in GOOD[:2]]
    assert firing(tmp_path, [*GOOD, *second, failures("flights-v1", "0+2x120")]) == {
        ("ChampionErrors", "flights-v1"),
        ("ChampionErrorsSlowly", "flights-v1"),
    }


BEAT = "tidegate_guard_heartbeat_timestamp_seconds"
LEDGER = "tidegate_guard_ledger_answered_timestamp_seconds"
QUALITY = {"series": "tidegate_quality_heartbeat_timestamp_seconds", "values": "0+5x120"}
ALIVE = [{"series": BEAT, "values": "0+5x120"}, {"series": LEDGER, "values": "0+5x120"}, QUALITY]


@needs_promtool
@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (ALIVE, set()),
        ([{"series": BEAT, "values": "0+5x40 200x80"}, *ALIVE[1:]], {"GuardSilent"}),
        ([{"series": BEAT, "values": "0+5x40 stale"}, *ALIVE[1:]], {"GuardSilent"}),
        (ALIVE[1:], {"GuardSilent"}),
        ([ALIVE[0], {"series": LEDGER, "values": "0x120"}, QUALITY], {"GuardLedgerUnreachable"}),
        ([*ALIVE[:2], {**QUALITY, "values": "0+5x40 200x80"}], {"QualitySilent"}),
        (ALIVE[:2], {"QualitySilent"}),
        ([*ALIVE, {"series": 'tidegate_guard_aborts_total{delivery="d"}', "values": "0x50 1x70"}], {"GuardAborted"}),
        ([*ALIVE, {"series": 'tidegate_guard_aborts_total{delivery="d"}', "values": "_x50 1x70"}], {"GuardAborted"}),
        ([*ALIVE, {"series": 'tidegate_guard_aborts_total{delivery="d"}', "values": "3x120"}], {"GuardAborted"}),
        (
            [*ALIVE, {"series": 'tidegate_guard_disbelieved_total{delivery="d"}', "values": "0x50 9x70"}],
            {"GuardDisbelievesLedger"},
        ),
        ([*ALIVE, {"series": 'up{job="guard"}', "values": "1x30 0x90"}], {"TargetDown"}),
    ],
)
def test_the_guard_and_the_quality_process_are_watched_themselves(tmp_path, series, expected):
    assert {name for name, _ in firing(tmp_path, series, at="4m55s", rules=[STATIC])} == expected


@needs_promtool
def test_an_abort_of_the_past_does_not_fire_for_ever(tmp_path):
    old = [*ALIVE, {"series": 'tidegate_guard_aborts_total{delivery="d"}', "values": "3x120"}]
    assert firing(tmp_path, old, at="5m30s", rules=[STATIC]) == set()
