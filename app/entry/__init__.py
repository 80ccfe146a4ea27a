"""Where a client's connection arrives. Runs inside every process that accepts clients.

head       the request head of a fresh connection, incrementally (pure)
listener   one raw protocol per connection: upgrades become tunnels, the rest goes to aiohttp
limits     how many unfinished connections an address may hold

A connection: TCP or TLS -> head -> `/ts2021`? Noise initiation -> machine key -> tunnel factory;
anything else -> aiohttp, bytes and transport.
"""
