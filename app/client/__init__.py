"""One simulated Tailscale device over the product's own codecs, for tests and load.

netmap      what a Go client makes of map messages, and what it would have stumbled over (pure)
serverkey   GET /key
connection  one tunnel: upgrade, Noise, HTTP/2 as a client
mapblob     zstd or plain blobs to JSON
device      a device: register, poll, update, rotate, log out
"""
