-- fleet_blast_devices --
-- Devices: how many, online, others of their tenants, routes they carry, and those that nobody else online carries.
-- $1 tenant_ids, $2 device_ids
WITH given AS MATERIALIZED (
    SELECT n.tenant_id, n.id, s.online, n.announced_routes, n.approved_routes
      FROM unnest($1::bigint[], $2::bigint[]) AS g (tenant_id, id)
      JOIN nodes n ON n.tenant_id = g.tenant_id AND n.id = g.id
      JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
), carried AS MATERIALIZED (
    SELECT g.tenant_id, r.route, bool_or(g.online) AS up
      FROM given g CROSS JOIN LATERAL unnest(g.approved_routes) AS r (route)
     WHERE r.route = ANY (g.announced_routes)
     GROUP BY g.tenant_id, r.route
), elsewhere AS MATERIALIZED (
    SELECT DISTINCT n.tenant_id, r.route
      FROM nodes n
      JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
     CROSS JOIN LATERAL unnest(n.approved_routes) AS r (route)
     WHERE n.approved_routes <> '{}' AND n.tenant_id IN (SELECT c.tenant_id FROM carried c) AND s.online
       AND r.route = ANY (n.announced_routes)
       AND NOT EXISTS (SELECT 1 FROM given g WHERE g.tenant_id = n.tenant_id AND g.id = n.id)
)
SELECT (SELECT count(*) FROM given), (SELECT count(*) FROM given),
       (SELECT count(*) FROM given g WHERE g.online),
       (SELECT COALESCE(sum(k.devices), 0)::bigint FROM tenant_counters k
         WHERE k.tenant_id IN (SELECT g.tenant_id FROM given g)) - (SELECT count(*) FROM given),
       (SELECT count(*) FROM carried),
       ARRAY(SELECT c.route FROM carried c
              WHERE c.up AND NOT EXISTS (SELECT 1 FROM elsewhere e
                                          WHERE e.tenant_id = c.tenant_id AND e.route = c.route)
              ORDER BY c.route)

-- fleet_blast_routes --
-- Routes of devices: how many, devices of their tenants, and those that nobody else online carries.
-- $1 tenant_ids, $2 device_ids, $3 routes
WITH given AS MATERIALIZED (
    SELECT g.tenant_id, g.id, g.route
      FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS g (tenant_id, id, route)
      JOIN nodes n ON n.tenant_id = g.tenant_id AND n.id = g.id
), elsewhere AS MATERIALIZED (
    SELECT DISTINCT n.tenant_id, r.route
      FROM nodes n
      JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
     CROSS JOIN LATERAL unnest(n.approved_routes) AS r (route)
     WHERE n.approved_routes <> '{}' AND n.tenant_id IN (SELECT g.tenant_id FROM given g) AND s.online
       AND r.route = ANY (n.announced_routes)
       AND NOT EXISTS (SELECT 1 FROM given g WHERE g.tenant_id = n.tenant_id AND g.id = n.id AND g.route = r.route)
)
SELECT (SELECT count(*) FROM given),
       (SELECT COALESCE(sum(k.devices), 0)::bigint FROM tenant_counters k
         WHERE k.tenant_id IN (SELECT g.tenant_id FROM given g)),
       (SELECT count(*) FROM node_state s WHERE s.online AND s.tenant_id IN (SELECT g.tenant_id FROM given g)),
       ARRAY(SELECT DISTINCT g.route FROM given g
              WHERE NOT EXISTS (SELECT 1 FROM elsewhere e WHERE e.tenant_id = g.tenant_id AND e.route = g.route)
              ORDER BY g.route)

-- fleet_blast_users --
-- Users: how many, what they own, how much of it is online, and their auth keys.
-- $1 tenant_ids, $2 user_ids
WITH given AS MATERIALIZED (
    SELECT u.tenant_id, u.id
      FROM unnest($1::bigint[], $2::bigint[]) AS g (tenant_id, id)
      JOIN users u ON u.tenant_id = g.tenant_id AND u.id = g.id
), owned AS MATERIALIZED (
    SELECT s.online
      FROM given g
      JOIN nodes n ON n.tenant_id = g.tenant_id AND n.user_id = g.id
      JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
)
SELECT (SELECT count(*) FROM given), (SELECT count(*) FROM owned), (SELECT count(*) FROM owned o WHERE o.online),
       (SELECT count(*) FROM given g JOIN pre_auth_keys k ON k.tenant_id = g.tenant_id AND k.user_id = g.id)

-- fleet_blast_keys --
-- Auth keys: how many, devices that joined with them, and which of them could let somebody in still.
-- $1 tenant_ids, $2 key_ids
WITH given AS MATERIALIZED (
    SELECT k.tenant_id, k.id, k.reusable, k.used,
           NOT k.revoked AND (k.expiration IS NULL OR k.expiration > now()) AS valid
      FROM unnest($1::bigint[], $2::bigint[]) AS g (tenant_id, id)
      JOIN pre_auth_keys k ON k.tenant_id = g.tenant_id AND k.id = g.id
), joined AS MATERIALIZED (
    SELECT s.online
      FROM given g
      JOIN nodes n ON n.tenant_id = g.tenant_id AND n.auth_key_id = g.id
      JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
)
SELECT (SELECT count(*) FROM given), (SELECT count(*) FROM joined), (SELECT count(*) FROM joined j WHERE j.online),
       (SELECT count(*) FROM given g WHERE g.valid AND NOT g.reusable AND NOT g.used),
       (SELECT count(*) FROM given g WHERE g.valid AND g.reusable)

-- fleet_blast_tenants --
-- Tenants: how many, their devices, and how many of these are online.
-- $1 tenant_ids
SELECT (SELECT count(*) FROM tenants t WHERE t.tenant_id = ANY ($1::bigint[])),
       (SELECT COALESCE(sum(k.devices), 0)::bigint FROM tenant_counters k WHERE k.tenant_id = ANY ($1::bigint[])),
       (SELECT count(*) FROM node_state s WHERE s.online AND s.tenant_id = ANY ($1::bigint[]))

-- fleet_blast_tag --
-- Devices of tenants that have a tag.
-- $1 tenant_ids, $2 tag
SELECT count(*), count(*) FILTER (WHERE s.online)
  FROM nodes n JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
 WHERE n.tenant_id = ANY ($1::bigint[]) AND $2::text = ANY (n.tags)

-- fleet_blast_clusters --
-- Clusters: how many, all devices, tenants that may leave with their devices, those that may not, and where to.
-- $1 cluster_ids
WITH here AS MATERIALIZED (
    SELECT t.tenant_id, k.devices, NOT t.is_home AND t.pinned IS DISTINCT FROM t.cluster_id AS leaves,
           NOT t.is_home AND t.pinned = t.cluster_id AS pinned
      FROM tenants t JOIN tenant_counters k ON k.tenant_id = t.tenant_id
     WHERE t.cluster_id = ANY ($1::text[]) AND t.status <> 'deleted'
), up AS MATERIALIZED (
    SELECT h.leaves FROM node_state s JOIN here h ON h.tenant_id = s.tenant_id WHERE s.cluster_id = ANY ($1::text[]) AND s.online
)
SELECT (SELECT count(*) FROM clusters c WHERE c.cluster_id = ANY ($1::text[])),
       (SELECT COALESCE(sum(h.devices), 0)::bigint FROM here h), (SELECT count(*) FROM up),
       (SELECT count(*) FROM here h WHERE h.leaves),
       (SELECT COALESCE(sum(h.devices), 0)::bigint FROM here h WHERE h.leaves),
       (SELECT count(*) FROM up u WHERE u.leaves), (SELECT count(*) FROM here h WHERE h.pinned),
       ARRAY(SELECT c.cluster_id FROM clusters c JOIN leases l ON l.name = 'cluster:' || c.cluster_id
              WHERE c.cluster_id <> ALL ($1::text[]) AND c.state = 'active' AND l.expires_at > now() ORDER BY c.cluster_id)

-- fleet_blast_plan --
-- Steps of a plan that are in a state: tenants, their devices, and how many of these are online.
-- $1 plan, $2 state
WITH going AS MATERIALIZED (
    SELECT s.tenant_id FROM rebalance_steps s WHERE s.rebalance_id = $1 AND s.state = $2
)
SELECT (SELECT count(*) FROM going),
       (SELECT COALESCE(sum(k.devices), 0)::bigint FROM tenant_counters k JOIN going g ON g.tenant_id = k.tenant_id),
       (SELECT count(*) FROM node_state s JOIN going g ON g.tenant_id = s.tenant_id WHERE s.online)
