"""What each device of a tenant is told, as shared bytes. Pure: no I/O, no clock.

variant   the wire forms of a message: plain JSON, or any number of concatenated zstd frames
row       one device as peers see it: its JSON, and how two pictures of it differ
blocks    lists of rows cut into blocks of 64 that are encoded once and reused
dns       settings -> tailcfg.DNSConfig
tenant    TenantNetmap: takes changes, commits them, makes full maps and deltas
flush     the difference of two commits, encoded once per class and variant

Order of use: put/remove any number of times -> commit() -> Flush -> message_for(viewer) for the
connected, full_map(viewer) for newcomers. A delta applied to the previous map equals a full map.
"""
