"""Protocol codecs: bytes in, events out. No I/O, no clock, no randomness (pure).

noise      the handshake of /ts2021 and the two cipher states it ends in
records    Noise transport records: seal, open, cut into frames of 4096 bytes
http2      the HTTP/2 inside the records, both roles (h2core streams and windows, h2frames codec)
websocket  the WebSocket variant of /ts2021, for clients in browsers
mapstream  length-prefixed messages of a map poll
tailcfg    wire types of register and map messages
convert    model <-> tailcfg, the only file that knows both
"""
