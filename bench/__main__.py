"""`python -m bench [NAME...]`: measure, print, and with --write put it into bench/RESULTS.md."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from bench import (
    console,
    delta,
    http2_micro,
    join,
    memory,
    netmap,
    noise_micro,
    policy,
    registration,
    report,
    takeover,
)
from bench.report import Table
from bench.system import Lab, lab

SCENARIOS: dict[str, Callable[[Lab], Table]] = {
    "registration": registration.run,
    "join": join.run,
    "delta": delta.run,
    "memory": memory.run,
    "takeover": takeover.run,
    "console": console.run,
    "fullmap": netmap.run_fullmap,
    "engine": netmap.run_engine,
    "policy": policy.run,
    "http2": http2_micro.run,
    "noise": noise_micro.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--write", action="store_true", help="replace these sections of bench/RESULTS.md")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer rounds: does it run at all?")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if arguments.write and arguments.quick:
        parser.error("figures of --quick are not worth writing down")
    names = arguments.names or list(SCENARIOS)
    sections: dict[str, str] = {}
    with lab(arguments.quick) as place:
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
