"""A whole tunnel: handshake, then records both ways, under any keys and any cutting."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from app.wire import noise
from app.wire.records import Opener, Sealer

private_keys = st.binary(min_size=32, max_size=32).map(X25519PrivateKey.from_private_bytes)


@given(
    private_keys,
    private_keys,
    private_keys,
    private_keys,
    st.integers(0, 65535),
    st.lists(st.tuples(st.booleans(), st.binary(max_size=6000)), max_size=8),
    st.integers(1, 3000),
)
@settings(max_examples=50, deadline=None)
def test_what_one_side_says_the_other_hears(
    server: X25519PrivateKey,
    machine: X25519PrivateKey,
    client_ephemeral: X25519PrivateKey,
    server_ephemeral: X25519PrivateKey,
    version: int,
    script: list[tuple[bool, bytes]],
    cut: int,
) -> None:
    server_public = server.public_key().public_bytes_raw()
    client = noise.Initiator(version, machine, server_public, client_ephemeral)
    responder = noise.open_initiation(client.message, server, server_public)
    assert responder.machine_key == machine.public_key().public_bytes_raw()
    assert responder.version == version
    response, server_keys = responder.respond(server_ephemeral)
    client_keys = client.finish(response)
    assert (server_keys.rx, server_keys.tx) == (client_keys.tx, client_keys.rx)
    assert server_keys.rx != server_keys.tx

    up = (Sealer(client_keys.tx), Opener(server_keys.rx))
    down = (Sealer(server_keys.tx), Opener(client_keys.rx))
    for upward, plain in script:
        sealer, opener = up if upward else down
        wire = sealer.seal(plain)
        assert b"".join(opener.feed(wire[i : i + cut]) for i in range(0, len(wire), cut)) == plain
