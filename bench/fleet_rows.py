"""A fleet of any size written straight into the database, as registrations would have left it."""

from __future__ import annotations

from app.db.connect import connect
from app.db.setup import Database

CLUSTERS = 4
USERS_PER_TENANT = 100
KEYS_PER_TENANT = 100

# `$1` rows are spread evenly; every 7th device is tagged, a third are offline, a few have expired.
_TENANTS = """
INSERT INTO users (tenant_id, cluster_id, name, email)
SELECT t.tenant_id, t.cluster_id, 'user' || n, 'user' || n || '@example.com'
  FROM tenants t, generate_series(1, $1::int) n
"""
_KEYS = """
INSERT INTO pre_auth_keys (tenant_id, cluster_id, prefix, hash, user_id, reusable)
SELECT u.tenant_id, u.cluster_id, lpad(to_hex(u.id), 12, '0'), sha256(u.id::text::bytea), u.id, u.id % 2 = 0
  FROM (SELECT *, row_number() OVER (PARTITION BY tenant_id ORDER BY id) AS n FROM users) u WHERE u.n <= $1
"""
_DEVICES = """
WITH place AS (
    SELECT t.tenant_id, t.cluster_id, row_number() OVER (ORDER BY t.tenant_id) - 1 AS at,
           (SELECT array_agg(u.id ORDER BY u.id) FROM users u WHERE u.tenant_id = t.tenant_id) AS users,
           (SELECT array_agg(k.id ORDER BY k.id) FROM pre_auth_keys k WHERE k.tenant_id = t.tenant_id) AS keys
      FROM tenants t
), made AS (
    SELECT n, p.*, n / $2::int AS nth
      FROM generate_series(0, $1::int - 1) n JOIN place p ON p.at = n % $2::int
)
INSERT INTO nodes (tenant_id, cluster_id, user_id, tags, machine_key, node_key, disco_key, ipv4, ipv6,
                   hostname, given_name, auth_key_id, expiry, capver, host_info, created_at)
SELECT tenant_id, cluster_id, CASE WHEN n % 7 > 0 THEN users[1 + nth % cardinality(users)] END,
       CASE WHEN n % 7 = 0 THEN ARRAY['tag:server', 'tag:rack' || n % 20] ELSE '{}' END,
       sha256(('m' || n)::bytea), sha256(('n' || n)::bytea), sha256(('d' || n)::bytea),
       '100.64.0.1'::inet + nth, 'fd7a:115c:a1e0::1'::inet + nth,
       (ARRAY['laptop', 'build-runner', 'kiosk', 'db', 'phone'])[1 + n % 5] || '-' || lpad(n::text, 6, '0'),
       (ARRAY['laptop', 'build-runner', 'kiosk', 'db', 'phone'])[1 + n % 5] || '-' || lpad(n::text, 6, '0'),
       keys[1 + nth % cardinality(keys)],
       CASE WHEN n % 10 = 0 THEN now() + (n % 1000 - 20) * interval '1 hour' END, 130,
       json_build_object('OS', (ARRAY['linux', 'macOS', 'windows', 'android', 'iOS'])[1 + n % 5],
                         'IPNVersion', '1.9' || n % 9 || '.1-t0123456789', 'OSVersion', '6.1.0-18-amd64',
                         'BackendLogID', repeat(to_hex(n % 16), 64), 'GoArch', 'amd64',
                         'Hostname', 'host' || n,
                         'Services', json_build_array(json_build_object('Proto', 'peerapi4', 'Port', 41234))),
       now() - n * interval '1 minute'
  FROM made ORDER BY n
"""
_STATE = """
UPDATE node_state SET online = node_id % 3 > 0, last_seen = now() - (node_id % 5000) * interval '1 minute',
       home_derp = 900, endpoints = ARRAY['192.168.1.17:41641', '203.0.113.9:41641']
"""


async def seed(dsn: str, devices: int, clusters: int = CLUSTERS) -> None:
    """A prepared database with so many devices over so many clusters, analysed."""
    prepared = await Database.prepare(dsn)
    for number in range(clusters):
        await prepared.ensure_cluster(f"c{number}")
    connection = await connect(dsn, "hs_owner")
    try:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute(_TENANTS, USERS_PER_TENANT)
        await connection.execute(_KEYS, KEYS_PER_TENANT)
        await connection.execute(_DEVICES, devices, clusters, timeout=600)
        await connection.execute(_STATE, timeout=600)
        await connection.execute("TRUNCATE changes")
        await connection.execute("ANALYZE", timeout=600)
    finally:
        await connection.close(timeout=10)
