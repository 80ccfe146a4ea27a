"""`python -m bench [NAME...]`: measure, print, and with --write put it into bench/RESULTS.md."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from bench import (
    acs,
    churn,
    clusters,
    console,
    delta,
    http2_micro,
    join,
    memory,
    most,
    netmap,
    noise_micro,
    outage,
    planner,
    policy,
    policy_live,
    registration,
    report,
    stalls,
    startup,
    takeover,
)
from bench.report import Table
from bench.system import Foreign, Lab, lab

SCENARIOS: dict[str, Callable[[Lab], Table]] = {
    "registration": registration.run,
    "join": join.run,
    "delta": delta.run,
    "memory": memory.run,
    "outage": outage.run,
    "issue3417": churn.run_issue,
    "tenants": churn.run_tenants,
    "most": most.run,
    "clusters": clusters.run,
    "policylive": policy_live.run,
    "stalls": stalls.run,
    "takeover": takeover.run,
    "startup": startup.run,
    "acs": acs.run,
    "planner": planner.run,
    "console": console.run,
    "fullmap": netmap.run_fullmap,
    "engine": netmap.run_engine,
    "policy": policy.run,
    "http2": http2_micro.run,
    "noise": noise_micro.run,
}
#: Scenarios that can put another control server beside ours.
BESIDE = ("join", "delta", "outage", "issue3417", "tenants", "most")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--write", action="store_true", help="replace these sections of bench/RESULTS.md")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: does it run at all?")
    parser.add_argument(
        "--server", metavar="URL", help="another control server beside ours (instead of naive)"
    )
    parser.add_argument("--pid", type=int, help="its process, whose CPU and memory are measured")
    parser.add_argument("--auth-key", action="append", default=[], help="its keys, one for each tenant")
    parser.add_argument("--auth-key-file", type=Path, help="the same, one a line")
    parser.add_argument(
        "--restart-with", metavar="COMMAND", help="restarts it and prints its new pid (outage)"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if arguments.write and arguments.quick:
        parser.error("figures of --quick are not worth writing down")
    names = arguments.names or list(SCENARIOS)
    foreign = None
    if arguments.server:
        keys = [*arguments.auth_key]
        if arguments.auth_key_file:
            keys += arguments.auth_key_file.read_text().split()
        if not keys or arguments.pid is None:
            parser.error("--server needs --pid and --auth-key")
        if wrong := [name for name in names if name not in BESIDE]:
            parser.error(f"{', '.join(wrong)} cannot take a foreign server; {', '.join(BESIDE)} can")
        if arguments.write:
            parser.error("RESULTS.md holds our figures only")
        foreign = Foreign(arguments.server, arguments.pid, keys, arguments.restart_with)
    sections: dict[str, str] = {}
    with lab(arguments.quick, foreign) as place:
        for name in names:
            run = report.run_line(place.postgres.version)
            started = time.monotonic()
            table = SCENARIOS[name](place)
            print(table.text())
            print(f"  {run} Took {time.monotonic() - started:.0f} s.\n", flush=True)
            sections[name] = table.markdown(run)
    if arguments.write:
        report.write(sections, list(SCENARIOS))


if __name__ == "__main__":
    main()
