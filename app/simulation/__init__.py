"""Thousands of simulated devices in one process: load for any Tailscale control server, and its check.

scenario    who does what when (pure)
stats       what is counted (pure)
markers     endpoints that carry a number: how long a change is on its way (pure)
mapcheck    order and ids of map messages (pure)
world       what all devices of a run share
thin, full  the two kinds of devices
fleet       all of them, from the first join to the last check
"""
