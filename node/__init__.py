"""hs-node: the control server of one cluster.

cli         the `hs-node` command; composes everything
serve       start, ownership, drain: the life of a serving process
tunnel      one client's Noise tunnel: records, HTTP/2, dispatch of requests
machine     what a tunnel may ask: register, map, and who is allowed to
register    use case: auth key or known device -> registration answer
session     one map poll: framing, keep-alive, backlog
hub         who is connected; presence with a grace
fanout      one task per tenant: commit, announce, deltas, then newcomers' maps
refresh     change rows written by others -> hub
requests    what operators ask for, claimed and carried out
hotstate    endpoints and presence, flushed in batches
jobs        what happens by the clock
web         /key, /health, /version, /verify, metrics
derp        relay + STUN child process; derpmap: where the DERP map comes from

Life of a connection: app.entry -> tunnel -> machine.register -> database (one round trip) -> hub;
machine.map -> session -> fanout: peers hear of the newcomer, then it gets its map, then deltas.
"""
