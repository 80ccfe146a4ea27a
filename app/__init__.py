"""Shared core of the product. Everything hs-node, hs-acs and hs-console have in common lives here.

errors         the error family, mapped to HTTP, tunnel and shell only at the edges
keys names tokens  machine, node and disco keys; labels and names; auth keys (pure)
model fleet    frozen records: tenants, users, devices; what the console shows (pure)
settings       the one settings object (settings_model, settings_values, config_file, headscale_keys)
log runtime    structured logging; daemons: signals, named tasks, drain
compression    zstd as map messages use it
deployment     the sealed Noise key all processes share
derpmap        DERP maps: read, checked, merged (pure)
request_kinds  what an operator may ask of a cluster's owner (pure)
wire           protocol codecs, no I/O (noise, records, http2, tailcfg, derp, stun)
netmap         what each device is told: rows, blocks, deltas (pure)
policy         who may see whom (pure)
entry          accepts a client's connection
client         one simulated device over the same codecs
pg database    embedded PostgreSQL; the configured database or the embedded one
db sql         the only way to the database, and its statements
"""

__version__ = "0.1.0"
