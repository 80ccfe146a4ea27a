-- be_patient --
-- A loading transaction blocks nobody: it may wait longer than others between two fetches.
-- (no parameters)
SELECT set_config('idle_in_transaction_session_timeout', '60s', true), set_config('statement_timeout', '120s', true)

-- snapshot_position --
-- Reader position and history of commits that belong to the picture of this transaction.
-- (no parameters)
SELECT pg_current_snapshot()::text AS position, generation() AS generation

-- load_tenants --
-- Tenants of a cluster; all of them when no ids are given.
-- $1 cluster_id, $2 tenant_ids or NULL
SELECT tenant_id, cluster_id, name, dns_label, status, is_home, extract(epoch FROM created_at)::float8, max_requests
  FROM tenants
 WHERE cluster_id = $1 AND ($2::bigint[] IS NULL OR tenant_id = ANY ($2::bigint[]))
 ORDER BY tenant_id

-- load_users --
-- Users of a cluster; of all tenants when no ids are given.
-- $1 cluster_id, $2 tenant_ids or NULL
SELECT id, tenant_id, name, display_name, email, profile_pic_url, extract(epoch FROM created_at)::float8, role
  FROM users
 WHERE cluster_id = $1 AND ($2::bigint[] IS NULL OR tenant_id = ANY ($2::bigint[]))
 ORDER BY tenant_id, id

-- load_some_users --
-- The named users, as far as they exist.
-- $1 cluster_id, $2 tenant_ids, $3 user_ids (pairs)
SELECT u.id, u.tenant_id, u.name, u.display_name, u.email, u.profile_pic_url,
       extract(epoch FROM u.created_at)::float8, u.role
  FROM unnest($2::bigint[], $3::bigint[]) AS w (tenant_id, id)
  JOIN users u ON u.tenant_id = w.tenant_id AND u.id = w.id
 WHERE u.cluster_id = $1

-- load_devices --
-- Devices of a cluster with their hot state, in no order; of all tenants when no ids are given.
-- $1 cluster_id, $2 tenant_ids or NULL
SELECT n.id, n.tenant_id, n.user_id, n.machine_key, n.node_key, n.disco_key, host(n.ipv4), host(n.ipv6),
       n.hostname, n.given_name, n.tags, n.ephemeral, extract(epoch FROM n.expiry)::float8,
       extract(epoch FROM n.created_at)::float8, n.auth_key_id, n.register_method, n.capver,
       convert_to(n.host_info::text, 'UTF8'), n.announced_routes, n.approved_routes, s.endpoints, s.home_derp,
       s.online, extract(epoch FROM s.last_seen)::float8
  FROM nodes n
  JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
 WHERE n.cluster_id = $1 AND s.cluster_id = $1 AND ($2::bigint[] IS NULL OR n.tenant_id = ANY ($2::bigint[]))

-- load_tenant_devices --
-- The devices of one tenant with their hot state.
-- $1 cluster_id, $2 tenant_id
SELECT n.id, n.tenant_id, n.user_id, n.machine_key, n.node_key, n.disco_key, host(n.ipv4), host(n.ipv6),
       n.hostname, n.given_name, n.tags, n.ephemeral, extract(epoch FROM n.expiry)::float8,
       extract(epoch FROM n.created_at)::float8, n.auth_key_id, n.register_method, n.capver,
       convert_to(n.host_info::text, 'UTF8'), n.announced_routes, n.approved_routes, s.endpoints, s.home_derp,
       s.online, extract(epoch FROM s.last_seen)::float8
  FROM nodes n
  JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
 WHERE n.cluster_id = $1 AND n.tenant_id = $2
 ORDER BY n.id

-- load_routers --
-- Devices of one tenant that announce routes or have some approved.
-- $1 cluster_id, $2 tenant_id
SELECT n.id, n.tenant_id, n.user_id, n.machine_key, n.node_key, n.disco_key, host(n.ipv4), host(n.ipv6),
       n.hostname, n.given_name, n.tags, n.ephemeral, extract(epoch FROM n.expiry)::float8,
       extract(epoch FROM n.created_at)::float8, n.auth_key_id, n.register_method, n.capver,
       convert_to(n.host_info::text, 'UTF8'), n.announced_routes, n.approved_routes, s.endpoints, s.home_derp,
       s.online, extract(epoch FROM s.last_seen)::float8
  FROM nodes n
  JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
 WHERE n.cluster_id = $1 AND n.tenant_id = $2
   AND (n.announced_routes <> '{}' OR n.approved_routes <> '{}')
 ORDER BY n.id

-- load_some_devices --
-- The named devices with their hot state, as far as they exist.
-- $1 cluster_id, $2 tenant_ids, $3 device_ids (pairs)
SELECT n.id, n.tenant_id, n.user_id, n.machine_key, n.node_key, n.disco_key, host(n.ipv4), host(n.ipv6),
       n.hostname, n.given_name, n.tags, n.ephemeral, extract(epoch FROM n.expiry)::float8,
       extract(epoch FROM n.created_at)::float8, n.auth_key_id, n.register_method, n.capver,
       convert_to(n.host_info::text, 'UTF8'), n.announced_routes, n.approved_routes, s.endpoints, s.home_derp,
       s.online, extract(epoch FROM s.last_seen)::float8
  FROM unnest($2::bigint[], $3::bigint[]) AS w (tenant_id, id)
  JOIN nodes n ON n.tenant_id = w.tenant_id AND n.id = w.id
  JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
 WHERE n.cluster_id = $1

-- read_changes --
-- Rows whose transaction was invisible at the old position and is visible now; always at least one row.
-- $1 cluster_id, $2 old_xmax, $3 old_in_progress
WITH s AS (SELECT pg_current_snapshot()::text AS position)
SELECT s.position, c.id, c.tenant_id, c.kind, c.scope_key, c.origin, extract(epoch FROM c.at)::float8
  FROM s LEFT JOIN changes c
    ON c.cluster_id = $1 AND (c.xid >= $2::text::xid8 OR c.xid = ANY ($3::text[]::xid8[]))
 ORDER BY c.id

-- current_position --
-- Reader position of now: everything committed so far counts as read.
-- (no parameters)
SELECT pg_current_snapshot()::text

-- trim_changes --
-- Forgets change rows older than an age; answers how many.
-- $1 cluster_id, $2 max_age_s
SELECT trim_changes($1, $2)

-- trim_tombstones --
-- Forgets tombstones older than an age; answers how many.
-- $1 cluster_id, $2 max_age_s
SELECT trim_tombstones($1, $2)
