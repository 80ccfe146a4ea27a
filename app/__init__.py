"""Shared core of the product. Everything hs-node, hs-acs and hs-console have in common lives here.

errors      the error family, mapped to HTTP, tunnel and shell only at the edges
keys        machine, node and disco keys: text forms (pure)
model       frozen records: tenants, users, devices (pure)
settings    the one settings object
log runtime structured logging; daemons: signals, named tasks, drain
wire        protocol codecs, no I/O (noise, records, http2, tailcfg)
netmap      what each device is told: rows, blocks, deltas (pure)
policy      who may see whom (pure)
entry       accepts a client's connection
client      one simulated device over the same codecs
pg          embedded PostgreSQL
db sql      the only way to the database, and its statements
"""

__version__ = "0.1.0"
