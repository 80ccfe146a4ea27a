"""Alarms: which facts raise them, and that they neither flap nor come without a cause."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.health import (
    RULES,
    Alarm,
    ClusterFacts,
    Facts,
    JobFailure,
    ProcessFacts,
    Reading,
    State,
    alarms_of,
    readings,
    resumed,
    step,
)

CLUSTER = ClusterFacts("eu-1", "active", "eu-1a", 3, True, False, 2, 0, 40, None, None, 0, 0, 0, 0)
PROCESS = ProcessFacts("eu-1", "eu-1a", "0.1.0", 0.002, 1, 20, 0.01)
FACTS = Facts((CLUSTER,), (PROCESS,), (), 0, None, "acs-1", 0.0)
LONG_S = 3600


def judged(facts: Facts) -> set[tuple[str, str]]:
    """(rule, object) of what is open when it stays like this."""
    state = step(step({}, readings(facts), 0), readings(facts), LONG_S)
    return {(alarm.rule, alarm.object) for alarm in alarms_of(state)}


def cluster(**changes: object) -> Facts:
    return replace(FACTS, clusters=(replace(CLUSTER, **changes),))  # type: ignore[arg-type]


def process(**changes: object) -> Facts:
    return replace(FACTS, processes=(replace(PROCESS, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (FACTS, None),
        (cluster(owned=False, expired=True), ("no_owner", "cluster:eu-1")),
        (cluster(owned=False, owner=""), ("no_owner", "cluster:eu-1")),
        (cluster(owned=False, owner="", epoch=0), None),
        (cluster(owned=False, owner="", state="drained"), None),
        (cluster(instances=1), None),
        (cluster(instances=1, lost_standbys=1), ("no_standby", "cluster:eu-1")),
        (cluster(instances=2, lost_standbys=1), None),
        (cluster(max_devices=44), ("cluster_full", "cluster:eu-1")),
        (cluster(max_devices=50), None),
        (cluster(waited_s=61.0), ("requests_stuck", "cluster:eu-1")),
        (cluster(waited_s=59.0), None),
        (cluster(quota_share=90.0, near_quota=2), ("quota_near", "tenants:eu-1")),
        (cluster(quota_share=89.0, near_quota=1), None),
        (cluster(expiring_devices=1), ("devices_expiring", "devices:eu-1")),
        (cluster(expiring_keys=1), ("keys_expiring", "keys:eu-1")),
        (process(loop_lag_s=0.5), ("loop_lag", "process:eu-1a")),
        (process(loop_lag_s=0.49), None),
        (process(loop_lag_s=None, pool_used=None, pool_size=None, clock_skew_s=None), None),
        (process(pool_used=19), ("pool_full", "process:eu-1a")),
        (process(pool_used=18), None),
        (process(clock_skew_s=-5.5), ("clock_skew", "process:eu-1a")),
        (replace(FACTS, failures=(JobFailure("rebalance", "no"),)), ("job_failing", "job:rebalance")),
        (replace(FACTS, dead_deliveries=1), ("webhooks_dead", "webhooks")),
        (replace(FACTS, acs_waited_s=61.0), ("requests_stuck", "requests")),
        (replace(FACTS, leader=""), ("no_leader", "lease:acs")),
        (replace(FACTS, leader=None), None),
        (
            replace(FACTS, processes=(PROCESS, replace(PROCESS, instance="b", version="0.2.0"))),
            ("version_skew", "versions"),
        ),
    ],
)
def test_which_facts_raise_which_alarm(facts: Facts, expected: tuple[str, str] | None) -> None:
    assert judged(facts) == ({expected} if expected else set())


@given(
    st.sampled_from(sorted(RULES)),
    st.lists(st.tuples(st.floats(0.1, 400), st.floats(0, 1.5)), max_size=60),
)
def test_an_alarm_has_a_cause_that_lasts_and_ends_with_it(
    name: str, looks: list[tuple[float, float]]
) -> None:
    rule = RULES[name]
    state: State = {}
    now = high_since = low_since = 0.0
    was_open = was_high = was_low = False
    for pause_s, share in looks:
        now += pause_s
        value = share * rule.raise_at
        state = step(state, [Reading(name, "c", "o", value, "text")] if value else [], now)
        is_open = bool(alarms_of(state))
        high, low = value >= rule.raise_at, value < rule.clear_below
        high_since = high_since if high and was_high else now
        low_since = low_since if low and was_low else now
        if is_open and not was_open:
            assert high
            assert now - high_since >= rule.hold_s
        if was_open and not is_open:
            assert low
            assert now - low_since >= rule.quiet_s
        if not high and not low:
            assert is_open == was_open, "between the thresholds nothing changes"
        was_open, was_high, was_low = is_open, high, low
    # What nobody sees any more ends, and leaves nothing behind.
    state = step(step(state, [], now + 1), [], now + 1 + LONG_S)
    assert state == {}


def test_who_takes_over_goes_on_with_open_alarms() -> None:
    old = Alarm("no_owner", "eu-1", "cluster:eu-1", "critical", "as it was said then")
    gone = replace(old, rule="a rule of a former version")
    state = resumed([old, gone])
    assert list(alarms_of(state)) == [old]
    assert list(alarms_of(step(state, [], 0))) == [old]
    assert alarms_of(step(step(state, [], 0), [], RULES["no_owner"].quiet_s)) == []
