"""The relay (DERP) and STUN server of a deployment; runs as a child process.

config       DerpConfig, Ready, region_json: what the parent says and what it hears
process      parent: starts the child, starts it again when it dies, stops it; main() of the child
child        child: composes certificate, relay, STUN and admission
server       Relay: listening, who is connected, routing between clients
session      one client connection: TLS, request head, handshake, frames, back-pressure
head pages   HTTP/1.1 request head and the answers that are no DERP (pure)
outbox       bounded send queues and token bucket (pure)
admission    asks the parent whether a node key may use the relay
stun         STUN over UDP
certificate  self-signed certificate, relay key, pin
Wire formats are in app.wire.derp and app.wire.stun.
"""
