-- fleet_list_tenants --
-- Tenants, with what is used of their limits.
-- $1 cluster_id or NULL
SELECT t.tenant_id, t.tenant_id AS id, t.cluster_id, t.cluster_id AS cluster, t.name, t.status AS state,
       COALESCE(t.plan, '') AS plan, t.region, t.dedicated, COALESCE(t.pinned, '') AS pinned, t.is_home,
       k.devices, t.max_devices, k.users, t.max_users, k.keys, t.max_keys,
       COALESCE(o.online, 0) AS online,
       CASE WHEN t.max_devices > 0 THEN round(100.0 * k.devices / t.max_devices) END AS used,
       extract(epoch FROM t.created_at)::float8 AS created, extract(epoch FROM now() - t.created_at)::float8 AS _created,
       t.version, ARRAY[t.name, t.cluster_id, COALESCE(t.plan, ''), t.region] AS words
  FROM tenants t
  JOIN tenant_counters k ON k.tenant_id = t.tenant_id
  LEFT JOIN (SELECT s.tenant_id, count(*) AS online FROM node_state s WHERE s.online GROUP BY s.tenant_id) o
    ON o.tenant_id = t.tenant_id
 WHERE $1::text IS NULL OR t.cluster_id = $1

-- fleet_list_rebalance --
-- Plans for moving tenants.
-- $1 cluster_id or NULL: those that empty it or move tenants of it
SELECT 0::bigint AS tenant_id, r.id, r.purpose, r.subject, r.subject AS cluster, r.state, r.why,
       r.dry_run -> 'before' AS before, r.dry_run -> 'after' AS after, r.dry_run -> 'notes' AS notes,
       COALESCE(r.error, '') AS error, r.created_by, r.created_by AS "by",
       extract(epoch FROM r.created_at)::float8 AS created, extract(epoch FROM now() - r.created_at)::float8 AS _created,
       COALESCE(r.approved_by, '') AS approved_by, extract(epoch FROM r.ended_at)::float8 AS ended, r.version,
       c.steps, c.devices, c.done, c.failed, c.connected_before, c.connected_after,
       ARRAY[r.purpose, r.subject, r.created_by, r.state] AS words
  FROM rebalances r
 CROSS JOIN LATERAL (
       SELECT count(*)::int AS steps, COALESCE(sum(s.devices), 0)::int AS devices,
              (count(*) FILTER (WHERE s.state = 'done'))::int AS done,
              (count(*) FILTER (WHERE s.state IN ('failed', 'skipped')))::int AS failed,
              sum(s.connected_before)::int AS connected_before, sum(s.connected_after)::int AS connected_after
         FROM rebalance_steps s WHERE s.rebalance_id = r.id) c
 WHERE $1::text IS NULL OR r.subject = $1
    OR EXISTS (SELECT 1 FROM rebalance_steps s WHERE s.rebalance_id = r.id AND $1 IN (s.source, s.target))

-- fleet_list_moves --
-- The steps of plans: one tenant each.
-- $1 cluster_id or NULL
SELECT s.tenant_id, s.rebalance_id * 1048576 + s.step AS id, s.rebalance_id AS plan, s.step, s.tenant, s.source,
       s.target, ARRAY[s.source, s.target] AS cluster, s.devices, s.state, COALESCE(s.error, '') AS error,
       s.connected_before, s.connected_after, extract(epoch FROM s.ended_at)::float8 AS ended,
       r.state AS plan_state, r.version AS plan_version, ARRAY[s.tenant, s.source, s.target, s.state] AS words
  FROM rebalance_steps s
  JOIN rebalances r ON r.id = s.rebalance_id
 WHERE $1::text IS NULL OR $1 IN (s.source, s.target)
