"""Health: facts about a deployment -> readings -> alarms, by rules with hysteresis. Pure.

A rule raises an alarm when its reading is at `raise_at` or above for `hold_s`, and clears it when the reading
is below `clear_below` for `quiet_s`. Between the two nothing changes. Times are epoch seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["critical", "warning", "notice"]
#: The worst first.
SEVERITIES: Final = ("critical", "warning", "notice")

#: A process that has said nothing for so long is not there (it says so every 5 to 10 s).
SILENT_S: Final = 30.0
#: A sample older than this says nothing about now.
SAMPLE_S: Final = 180.0
#: A standby that was lost longer ago than this is not missed any more.
STANDBY_S: Final = 86_400.0
#: Deliveries that were given up within this time count.
DEAD_S: Final = 3600.0
#: Keys that end within this time are told of.
EXPIRING_S: Final = 86_400.0
#: Of a cluster no more of these are counted.
MOST_EXPIRING: Final = 1000


@dataclass(frozen=True, slots=True)
class Rule:
    """When an alarm begins and ends."""

    severity: Severity
    raise_at: float
    clear_below: float
    hold_s: float = 0.0
    quiet_s: float = 0.0

    def __post_init__(self) -> None:
        assert self.clear_below <= self.raise_at


#: All thresholds. Rules about yes and no read 1 or 0.
RULES: Final[Mapping[str, Rule]] = {
    # A restart gives the lease back and takes it again within seconds.
    "no_owner": Rule("critical", 1, 1, hold_s=3, quiet_s=2),
    "no_leader": Rule("critical", 1, 1, hold_s=10, quiet_s=2),
    "no_standby": Rule("warning", 1, 1, hold_s=10, quiet_s=5),
    # Milliseconds that the event loop was late at worst. Samples are of a minute: one bad one is not enough.
    "loop_lag": Rule("warning", 500, 200, hold_s=75, quiet_s=120),
    # Per cent of the database connections a process may have.
    "pool_full": Rule("warning", 95, 80, hold_s=75, quiet_s=120),
    # Per cent of the devices a cluster may have.
    "cluster_full": Rule("warning", 90, 85, hold_s=30, quiet_s=60),
    # Seconds that the oldest request has waited.
    "requests_stuck": Rule("warning", 60, 10, quiet_s=5),
    # Failed at its last run; a job that runs every few seconds and fails stays failed in between.
    "job_failing": Rule("warning", 1, 1, hold_s=10, quiet_s=30),
    "webhooks_dead": Rule("warning", 1, 1, quiet_s=30),
    # Seconds between a process's clock and the database's.
    "clock_skew": Rule("warning", 5, 2, quiet_s=120),
    # Versions that run at the same time; an upgrade takes a while.
    "version_skew": Rule("notice", 2, 2, hold_s=600, quiet_s=5),
    # Per cent that the fullest tenant of a cluster uses of one of its limits.
    "quota_near": Rule("notice", 90, 85, hold_s=30, quiet_s=60),
    # How many; one that is renewed is soon followed by the next.
    "devices_expiring": Rule("notice", 1, 1, quiet_s=60),
    "keys_expiring": Rule("notice", 1, 1, quiet_s=60),
}


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """`expired`: its owner has not renewed; `lost_standbys`: silent, but heard since the owner started.

    `waited_s`: how long its oldest request waits, None without any. `quota_share`: per cent that its fullest
    tenant uses of a limit, `near_quota`: tenants near one. `expiring_*`: within EXPIRING_S, at most
    MOST_EXPIRING are counted.
    """

    cluster_id: str
    state: str
    owner: str
    epoch: int
    owned: bool
    expired: bool
    instances: int
    lost_standbys: int
    devices: int
    max_devices: int | None
    waited_s: float | None
    quota_share: float
    near_quota: int
    expiring_devices: int
    expiring_keys: int


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """A process that is there; what its newest sample says, None without one."""

    cluster_id: str
    instance: str
    version: str
    loop_lag_s: float | None
    pool_used: int | None
    pool_size: int | None
    clock_skew_s: float | None


@dataclass(frozen=True, slots=True)
class JobFailure:
    """A job whose last run failed."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is judged, of one moment. `leader`: '' for none now, None where none has ever led."""

    clusters: tuple[ClusterFacts, ...]
    processes: tuple[ProcessFacts, ...]
    failures: tuple[JobFailure, ...]
    dead_deliveries: int
    acs_waited_s: float | None
    leader: str | None
    now: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a rule reads of one object. `object` is `kind:name`, as in the audit log."""

    rule: str
    cluster_id: str
    object: str
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that is open."""

    rule: str
    cluster_id: str
    object: str
    severity: Severity
    text: str


Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Watch:
    """How far a rule is with an object: `since` it is high while closed, or low while open."""

    text: str
    is_open: bool
    since: float | None


State = Mapping[Key, Watch]


def readings(facts: Facts) -> list[Reading]:
    """What each rule reads. An object that is not named here reads 0. Texts hold no times that run."""
    found: list[Reading] = []
    for cluster in facts.clusters:
        found += _of_cluster(cluster)
    for process in facts.processes:
        found += _of_process(process)
    found += [
        Reading("job_failing", "", f"job:{failure.name}", 1, f"job {failure.name} fails: {failure.error}")
        for failure in facts.failures
    ]
    if facts.dead_deliveries:
        text = f"{facts.dead_deliveries} webhook deliveries were given up within the last hour"
        found.append(Reading("webhooks_dead", "", "webhooks", 1, text))
    if facts.acs_waited_s is not None:
        text = "a request to hs-acs is not carried out"
        found.append(Reading("requests_stuck", "", "requests", facts.acs_waited_s, text))
    if facts.leader == "":
        text = "no hs-acs leads: jobs, plans and requests to the deployment stand still"
        found.append(Reading("no_leader", "", "lease:acs", 1, text))
    versions = sorted({process.version for process in facts.processes})
    text = f"several versions run: {', '.join(versions)}"
    found.append(Reading("version_skew", "", "versions", len(versions), text))
    return found


def _of_cluster(cluster: ClusterFacts) -> list[Reading]:
    name, what = cluster.cluster_id, f"cluster:{cluster.cluster_id}"
    found: list[Reading] = []
    # One that nobody has ever served, or that was emptied, is missed by nobody.
    if not cluster.owned and cluster.epoch > 0 and cluster.state != "drained":
        how = f"{cluster.owner} has not renewed its lease" if cluster.expired else "its owner gave it back"
        text = f"cluster {name} has no owner: {how}, and nobody has taken it"
        found.append(Reading("no_owner", name, what, 1, text))
    if cluster.owned and cluster.instances == 1 and cluster.lost_standbys:
        text = f"cluster {name} has lost its standby: {cluster.owner} is alone"
        found.append(Reading("no_standby", name, what, 1, text))
    if cluster.max_devices:
        share = 100 * cluster.devices / cluster.max_devices
        text = f"cluster {name} has {cluster.devices:,} of {cluster.max_devices:,} devices"
        found.append(Reading("cluster_full", name, what, share, text))
    if cluster.waited_s is not None:
        text = f"a request to cluster {name} is not carried out"
        found.append(Reading("requests_stuck", name, what, cluster.waited_s, text))
    return found + _of_tenants(cluster)


def _of_tenants(cluster: ClusterFacts) -> list[Reading]:
    """What its tenants are soon to notice: told of by cluster, for there may be thousands of them."""
    name, near, hours = cluster.cluster_id, RULES["quota_near"].clear_below, EXPIRING_S / 3600
    found: list[Reading] = []
    if cluster.near_quota:
        share = cluster.quota_share
        text = f"{_counted(cluster.near_quota, 'tenant')} at {near:g} % of a limit or more"
        found.append(Reading("quota_near", name, f"tenants:{name}", share, text))
    if devices := cluster.expiring_devices:
        text = f"{_counted(devices, 'device')} must log in again within {hours:g} h"
        found.append(Reading("devices_expiring", name, f"devices:{name}", devices, text))
    if keys := cluster.expiring_keys:
        text = f"{_counted(keys, 'reusable auth key')} with less than {hours:g} h left"
        found.append(Reading("keys_expiring", name, f"keys:{name}", keys, text))
    return found


def _counted(number: int, noun: str) -> str:
    many = " or more" if number >= MOST_EXPIRING else ""
    return f"{number:,}{many} {noun}{'' if number == 1 else 's'}"


def _of_process(process: ProcessFacts) -> list[Reading]:
    place, what = process.cluster_id, f"process:{process.instance}"
    found: list[Reading] = []
    if process.loop_lag_s is not None:
        lag_ms = 1000 * process.loop_lag_s
        text = f"the event loop of {process.instance} was {lag_ms:.0f} ms late"
        found.append(Reading("loop_lag", place, what, lag_ms, text))
    if process.pool_used is not None and process.pool_size:
        share = 100 * process.pool_used / process.pool_size
        text = f"{process.instance} used {process.pool_used} of {process.pool_size} database connections"
        found.append(Reading("pool_full", place, what, share, text))
    if process.clock_skew_s is not None:
        text = f"the clock of {process.instance} is {process.clock_skew_s:+.1f} s off the database's"
        found.append(Reading("clock_skew", place, what, abs(process.clock_skew_s), text))
    return found


def step(state: State, found: Iterable[Reading], now: float) -> State:
    """The state after these readings; objects that nothing is known of are left out."""
    read = {(one.rule, one.cluster_id, one.object): one for one in found}
    after: dict[Key, Watch] = {}
    for key in (*read, *(key for key in state if key not in read)):
        watch = _next(state.get(key), read.get(key), RULES[key[0]], now)
        if watch is not None:
            after[key] = watch
    return after


def _next(watch: Watch | None, reading: Reading | None, rule: Rule, now: float) -> Watch | None:
    value = 0.0 if reading is None else reading.value
    is_open = watch is not None and watch.is_open
    crossed = value < rule.clear_below if is_open else value >= rule.raise_at
    # An alarm that ends keeps the words it was raised with.
    text = reading.text if reading is not None and value >= rule.clear_below else watch.text if watch else ""
    if not crossed:
        return Watch(text, True, None) if is_open else None
    since = now if watch is None or watch.since is None else watch.since
    if now - since < (rule.quiet_s if is_open else rule.hold_s):
        return Watch(text, is_open, since)
    return None if is_open else Watch(text, True, None)


def resumed(alarms: Iterable[Alarm]) -> State:
    """The state of who takes over with these alarms open. A rule that is no more lets go of its alarms."""
    return {
        (one.rule, one.cluster_id, one.object): Watch(one.text, True, None)
        for one in alarms
        if one.rule in RULES
    }


def alarms_of(state: State) -> Sequence[Alarm]:
    """Those that are open, the worst first."""
    found = [
        Alarm(*key, severity=RULES[key[0]].severity, text=watch.text)
        for key, watch in state.items()
        if watch.is_open
    ]
    order = SEVERITIES.index
    return sorted(found, key=lambda one: (order(one.severity), one.cluster_id, one.object, one.rule))
