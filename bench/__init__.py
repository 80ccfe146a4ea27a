"""Figures of the product on this machine: `python -m bench [NAME...] [--write] [--quick]`.

report        figures, tables, bench/RESULTS.md
system        PostgreSQL, the real `hs-node serve`, CPU and memory of processes, load processes
load          devices as seen by the server, cheap enough for thousands; runs in a load process
pgcount       counts round trips between a program and PostgreSQL
data          synthetic devices and a visibility with many classes
naive         the plain way to do the same, to compare with; naive_server: the real server made so
registration, join, delta, memory   scenarios on the real server
netmap        the netmap engine alone: full maps and deltas
policy        the policy engine alone: compile, join, edit, filters of everybody
http2_micro, noise_micro            codecs alone
"""
