"""Where a client's connection arrives. Runs inside every process that accepts clients.

head       the request head of a fresh connection, incrementally (pure)
listener   one raw protocol per connection: upgrades become tunnels, the rest goes to aiohttp
limits     how many unfinished connections an address may hold (pure)
routing    here, to the owner, or wait: the decision (pure)
relays     what is not served here: routes, who waits, who is relayed
relay      one such connection
hop        the signed header between entry and owner (pure)
inner      the owner's side of a hop
sockets    options of long-lived connections

A connection: TCP or TLS -> head -> `/ts2021`? Noise initiation -> machine key -> route -> tunnel factory or
relay; anything else -> aiohttp, bytes and transport.
"""
