-- fleet_list_users --
-- Users with what they own.
-- $1 cluster_id or NULL
SELECT u.tenant_id, u.id, u.cluster_id, u.cluster_id AS cluster, t.name AS tenant, u.name,
       ARRAY[u.name, u.display_name] AS _name, u.display_name, u.email,
       extract(epoch FROM u.created_at)::float8 AS created, extract(epoch FROM now() - u.created_at)::float8 AS _created,
       COALESCE(o.devices, 0) AS devices, COALESCE(o.online, 0) AS online, COALESCE(k.keys, 0) AS keys, u.role,
       ARRAY[u.name, u.display_name, u.email, u.role, t.name] AS words
  FROM users u
  JOIN tenants t ON t.tenant_id = u.tenant_id
  LEFT JOIN (SELECT n.tenant_id, n.user_id, count(*) AS devices, count(*) FILTER (WHERE s.online) AS online
               FROM nodes n JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
              WHERE ($1::text IS NULL OR n.cluster_id = $1) AND n.user_id IS NOT NULL
              GROUP BY n.tenant_id, n.user_id) o ON o.tenant_id = u.tenant_id AND o.user_id = u.id
  LEFT JOIN (SELECT p.tenant_id, p.user_id, count(*) AS keys FROM pre_auth_keys p
              WHERE ($1::text IS NULL OR p.cluster_id = $1) AND p.user_id IS NOT NULL
              GROUP BY p.tenant_id, p.user_id) k ON k.tenant_id = u.tenant_id AND k.user_id = u.id
 WHERE $1::text IS NULL OR u.cluster_id = $1

-- fleet_list_keys --
-- Pre-auth keys, without secrets.
-- $1 cluster_id or NULL
SELECT k.tenant_id, k.id, k.cluster_id, k.cluster_id AS cluster, t.name AS tenant, k.prefix, k.user_id,
       COALESCE(u.name, '') AS user, COALESCE(u.name, array_to_string(k.tags, ' ')) AS owner, k.tags, k.tags AS tag,
       k.reusable, k.ephemeral, k.used, k.uses, k.revoked, extract(epoch FROM k.expiration)::float8 AS expiration,
       extract(epoch FROM k.expiration)::float8 AS expires,
       COALESCE(extract(epoch FROM k.expiration - now()), 'Infinity')::float8 AS _expires,
       extract(epoch FROM k.created_at)::float8 AS created, extract(epoch FROM now() - k.created_at)::float8 AS _created,
       CASE WHEN k.revoked THEN 'revoked' WHEN k.expiration <= now() THEN 'expired'
            WHEN k.used AND NOT k.reusable THEN 'used' ELSE 'active' END AS state,
       COALESCE(j.devices, 0) AS devices, k.tags || ARRAY[k.prefix, COALESCE(u.name, ''), t.name] AS words
  FROM pre_auth_keys k
  JOIN tenants t ON t.tenant_id = k.tenant_id
  LEFT JOIN users u ON u.tenant_id = k.tenant_id AND u.id = k.user_id
  LEFT JOIN (SELECT n.tenant_id, n.auth_key_id, count(*) AS devices FROM nodes n
              WHERE ($1::text IS NULL OR n.cluster_id = $1) AND n.auth_key_id IS NOT NULL
              GROUP BY n.tenant_id, n.auth_key_id) j ON j.tenant_id = k.tenant_id AND j.auth_key_id = k.id
 WHERE $1::text IS NULL OR k.cluster_id = $1

-- fleet_list_tenants --
-- Tenants, with what is used of their limits.
-- $1 cluster_id or NULL
SELECT t.tenant_id, t.tenant_id AS id, t.cluster_id, t.cluster_id AS cluster, t.name, t.status AS state,
       COALESCE(t.plan, '') AS plan, t.region, t.dedicated, COALESCE(t.pinned, '') AS pinned, t.is_home,
       k.devices, t.max_devices, k.users, t.max_users, k.keys, t.max_keys,
       COALESCE(o.online, 0) AS online,
       floor(100 * GREATEST(k.devices / NULLIF(t.max_devices, 0)::float8, k.users / NULLIF(t.max_users, 0)::float8,
                            k.keys / NULLIF(t.max_keys, 0)::float8))::int AS used,
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
       c.steps, c.devices, c.done, c.failed, c.left_out, c.first, c.last, c.connected_before, c.connected_after,
       COALESCE((SELECT jsonb_object_agg(m.cluster_id, m.devices)
                   FROM (SELECT x.cluster_id, sum(x.devices) AS devices
                           FROM rebalance_steps s
                          CROSS JOIN LATERAL (VALUES (s.source, -s.devices), (s.target, s.devices)) x (cluster_id, devices)
                          WHERE s.rebalance_id = r.id AND s.state = 'done'
                          GROUP BY x.cluster_id) m), '{}') AS shifted,
       (SELECT jsonb_object_agg(k.cluster_id, k.max_devices) FROM clusters k) AS room,
       -- whom it will cost the connection for a moment, counted to 2,000; of a plan that is over nobody
       CASE WHEN r.state IN ('proposed', 'applying', 'paused')
            THEN (SELECT count(*) FROM (
                       SELECT 1 FROM rebalance_steps s JOIN node_state n ON n.tenant_id = s.tenant_id AND n.online
                        WHERE s.rebalance_id = r.id AND s.state = 'waiting' LIMIT 2000) o) END AS online,
       ARRAY[r.purpose, r.subject, r.created_by, r.state] AS words
  FROM rebalances r
 CROSS JOIN LATERAL (
       SELECT count(*)::int AS steps, COALESCE(sum(s.devices) FILTER (WHERE s.state <> 'skipped'), 0)::int AS devices,
              (count(*) FILTER (WHERE s.state = 'done'))::int AS done,
              (count(*) FILTER (WHERE s.state = 'failed' OR s.state = 'skipped' AND s.ended_at IS NOT NULL))::int AS failed,
              (count(*) FILTER (WHERE s.state = 'skipped' AND s.ended_at IS NULL))::int AS left_out,
              extract(epoch FROM min(s.ended_at))::float8 AS first, extract(epoch FROM max(s.ended_at))::float8 AS last,
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
       r.state AS plan_state, r.version AS plan_version,
       jsonb_array_length(r.dry_run -> 'notes') AS plan_notes, ARRAY[s.tenant, s.source, s.target, s.state] AS words
  FROM rebalance_steps s
  JOIN rebalances r ON r.id = s.rebalance_id
 WHERE $1::text IS NULL OR $1 IN (s.source, s.target)

-- fleet_list_routes --
-- Routes that devices announce or may carry; `ready`: how many devices of the tenant carry it and are online.
-- $1 cluster_id or NULL
SELECT n.tenant_id, n.id * 1024 + r.place AS id, n.id AS device_id, n.cluster_id, n.cluster_id AS cluster,
       t.name AS tenant, r.route,
       CASE WHEN r.route IN ('0.0.0.0/0', '::/0') THEN 'exit' ELSE 'subnet' END AS kind, n.given_name AS router,
       CASE WHEN NOT r.route = ANY (n.announced_routes) THEN 'withdrawn'
            WHEN r.route = ANY (n.approved_routes) THEN 'approved' ELSE 'waiting' END AS state,
       s.online,
       count(*) FILTER (WHERE s.online AND r.route = ANY (n.approved_routes) AND r.route = ANY (n.announced_routes))
           OVER (PARTITION BY n.tenant_id, r.route) AS ready,
       ARRAY[r.route, n.given_name, t.name] AS words
  FROM nodes n
  JOIN tenants t ON t.tenant_id = n.tenant_id
  JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
 CROSS JOIN LATERAL (
       SELECT x.route, row_number() OVER (ORDER BY x.route) AS place
         FROM (SELECT DISTINCT unnest(n.announced_routes || n.approved_routes) AS route) x) r
 WHERE (n.announced_routes <> '{}' OR n.approved_routes <> '{}') AND ($1::text IS NULL OR n.cluster_id = $1)

-- fleet_list_policy --
-- All versions of all policies; the highest of a tenant is in force.
-- $1 cluster_id or NULL
SELECT p.tenant_id, p.version::bigint AS id, p.cluster_id, p.cluster_id AS cluster, t.name AS tenant, p.version,
       max(p.version) OVER (PARTITION BY p.tenant_id) AS newest,
       CASE WHEN p.version = max(p.version) OVER (PARTITION BY p.tenant_id) THEN 'active' ELSE 'former' END AS state,
       p.author, p.note, octet_length(p.text) AS size, extract(epoch FROM p.created_at)::float8 AS created,
       extract(epoch FROM now() - p.created_at)::float8 AS _created, ARRAY[t.name, p.author, p.note] AS words
  FROM policies p JOIN tenants t ON t.tenant_id = p.tenant_id
 WHERE $1::text IS NULL OR p.cluster_id = $1

-- fleet_list_netmap --
-- The newest changes of netmaps, and the newest rebuilds with what they made.
-- $1 cluster_id or NULL
SELECT COALESCE(c.tenant_id, 0) AS tenant_id, c.id * 2 AS id, c.cluster_id, c.cluster_id AS cluster,
       extract(epoch FROM c.at)::float8 AS at, extract(epoch FROM now() - c.at)::float8 AS _age, c.kind AS event,
       c.scope_key AS scope, COALESCE(NULLIF(c.origin, ''), 'shell, console or hs-acs') AS origin, 'change' AS state,
       NULL::bigint AS devices, NULL::bigint AS bytes, NULL::float8 AS ms, '' AS error,
       NULL::bigint AS maps, NULL::bigint AS waiting, NULL::float8 AS read_ms, NULL::float8 AS send_ms,
       ARRAY[c.kind, c.scope_key, c.origin] AS words
  FROM clusters k CROSS JOIN LATERAL (
       -- By id, as its index has them: of many clusters a share each, of one all.
       SELECT * FROM changes h WHERE h.cluster_id = k.cluster_id ORDER BY h.id DESC
        LIMIT (SELECT GREATEST(200, 3000 / count(*)) FROM clusters m WHERE $1::text IS NULL OR m.cluster_id = $1)) c
 WHERE $1::text IS NULL OR k.cluster_id = $1
UNION ALL
SELECT COALESCE(r.tenant_id, 0), r.id * 2 + 1, r.cluster_id, r.cluster_id, extract(epoch FROM r.requested_at)::float8,
       extract(epoch FROM now() - r.requested_at)::float8, 'rebuild', r.args ->> 'scope', r.requested_by, r.state,
       (r.result ->> 'devices')::bigint, (r.result ->> 'bytes')::bigint, (r.result ->> 'ms')::float8,
       COALESCE(r.error, ''), (r.result ->> 'maps')::bigint, (r.result ->> 'waiting')::bigint,
       (r.result ->> 'read_ms')::float8, (r.result ->> 'send_ms')::float8,
       ARRAY['rebuild', r.args ->> 'scope', r.requested_by]
  FROM (SELECT * FROM requests WHERE kind = 'netmap_rebuild' AND ($1::text IS NULL OR cluster_id = $1)
         ORDER BY id DESC LIMIT 1000) r

-- fleet_audit --
-- A window of the audit log, which may be long: ordered by id only, and counted where there is more, but not far.
-- $1 cluster_id or NULL, $2 terms, $3 newest first, $4 id to start after, $5 limit, $6 most to count
WITH term AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($2::text::jsonb)
        AS x (field text, op text, patterns text[], number float8, negated boolean)
), line AS NOT MATERIALIZED (
    SELECT a.*, COALESCE(t.name, '') AS tenant
      FROM audit_log a
      LEFT JOIN tenants t ON t.tenant_id = a.tenant_id
     WHERE ($1::text IS NULL OR a.cluster_id = $1)
       -- As a value: of an anti-join it is thought that few rows are left, and all of the log is sorted.
       AND ($2::text = '[]' OR 0 = (
           SELECT count(*) FROM term
            WHERE term.negated = CASE term.field
              WHEN 'actor' THEN lower(a.actor) LIKE ANY (term.patterns)
              WHEN 'action' THEN lower(a.action) LIKE ANY (term.patterns)
              WHEN 'object' THEN lower(a.object) LIKE ANY (term.patterns)
              WHEN 'tenant' THEN lower(COALESCE(t.name, '')) LIKE ANY (term.patterns)
              WHEN 'cluster' THEN lower(a.cluster_id) LIKE ANY (term.patterns)
              WHEN 'any' THEN lower(a.actor) LIKE ANY (term.patterns) OR lower(a.action) LIKE ANY (term.patterns)
                           OR lower(a.object) LIKE ANY (term.patterns)
                           OR lower(COALESCE(t.name, '')) LIKE ANY (term.patterns)
              ELSE sign((CASE term.field WHEN 'id' THEN a.id::float8
                                         ELSE extract(epoch FROM now() - a.at)::float8 END) - term.number)
                   = CASE term.op WHEN 'lt' THEN -1 WHEN 'gt' THEN 1 ELSE 0 END
              END))
), picked AS MATERIALIZED (
    (SELECT * FROM line WHERE $3::boolean AND ($4::bigint IS NULL OR id < $4) ORDER BY id DESC LIMIT $5)
    UNION ALL
    (SELECT * FROM line WHERE NOT $3::boolean AND ($4::bigint IS NULL OR id > $4) ORDER BY id LIMIT $5)
)
SELECT CASE WHEN (SELECT count(*) FROM picked) = $5::bigint
            THEN (SELECT count(*) FROM (SELECT 1 FROM line LIMIT $6::bigint) c) END AS total,
       extract(epoch FROM now())::float8 AS now, w.id,
       jsonb_build_object('tenant_id', COALESCE(w.tenant_id, 0), 'id', w.id, 'cluster_id', w.cluster_id,
                          'at', extract(epoch FROM w.at)::float8, 'actor', w.actor, 'action', w.action,
                          'object', w.object, 'tenant', w.tenant, 'before', COALESCE(w.before::text, ''),
                          'after', COALESCE(w.after::text, ''))::text AS facts
  FROM (SELECT 1) AS always
  LEFT JOIN picked w ON true
 ORDER BY CASE WHEN $3::boolean THEN -w.id ELSE w.id END

-- fleet_list_processes --
-- Every hs-node and hs-acs that was heard of, and its lease.
-- $1 cluster_id or NULL
SELECT 0::bigint AS tenant_id, hashtextextended(i.instance_id, 0) & 9007199254740991 AS id, i.instance_id AS name,
       i.kind, i.cluster_id, i.cluster_id AS cluster, i.addr, i.version,
       extract(epoch FROM i.started_at)::float8 AS started, extract(epoch FROM i.heartbeat_at)::float8 AS heartbeat,
       CASE WHEN i.heartbeat_at < now() - interval '90 seconds' THEN 'lost'
            WHEN l.holder <> i.instance_id OR l.holder IS NULL OR l.expires_at < now() THEN 'standby'
            WHEN i.kind = 'acs' THEN 'leader' ELSE 'owner' END AS state,
       CASE WHEN l.holder = i.instance_id THEN l.epoch END AS epoch,
       CASE WHEN l.holder = i.instance_id AND l.expires_at > '-infinity'
            THEN extract(epoch FROM l.expires_at)::float8 END AS lease_ends,
       i.version <> first_value(i.version)
           OVER (ORDER BY i.heartbeat_at > now() - interval '90 seconds' DESC, i.started_at DESC) AS skewed,
       CASE WHEN i.heartbeat_at >= now() - interval '90 seconds' THEN i.connected END AS connected,
       s.rss, s.cpu_s / s.span_s AS cpu_share, s.loop_lag_s, s.pool_used, s.pool_size,
       COALESCE(h.lags, '{}') AS lags, COALESCE(h.sizes, '{}') AS sizes, COALESCE(h.pools, '{}') AS pools,
       ARRAY[i.instance_id, i.kind, i.cluster_id] AS words
  FROM instances i
  LEFT JOIN leases l ON l.name = CASE i.kind WHEN 'acs' THEN 'acs' ELSE 'cluster:' || i.cluster_id END
  LEFT JOIN LATERAL (SELECT * FROM load_samples m
                      WHERE m.cluster_id = i.cluster_id AND m.instance_id = i.instance_id
                        AND m.minute > now() - interval '3 minutes'
                      ORDER BY m.minute DESC LIMIT 1) s ON true
  LEFT JOIN LATERAL (SELECT array_agg(m.loop_lag_s ORDER BY m.minute) AS lags,
                            array_agg(m.pool_used ORDER BY m.minute) AS pools,
                            array_agg(m.rss ORDER BY m.minute) FILTER (WHERE m.rss IS NOT NULL) AS sizes
                       FROM load_samples m
                      WHERE m.cluster_id = i.cluster_id AND m.instance_id = i.instance_id
                        AND m.minute > now() - interval '60 minutes') h ON true
 WHERE $1::text IS NULL OR i.cluster_id = $1 OR i.kind = 'acs'

-- fleet_list_alarms --
-- The newest alarms, open or over.
-- $1 cluster_id or NULL; alarms of the deployment as a whole are of no cluster
SELECT 0::bigint AS tenant_id, a.id, a.cluster_id, a.cluster_id AS cluster, a.severity, a.rule, a.object, a.text,
       CASE WHEN a.cleared_at IS NOT NULL THEN 'over' WHEN a.acknowledged_at IS NOT NULL THEN 'known'
            ELSE 'open' END AS state,
       -- what nobody knows of first, the worst on top, then the newest; ages are below 1e11 for ever
       (CASE WHEN a.cleared_at IS NOT NULL THEN 9 WHEN a.acknowledged_at IS NOT NULL THEN 5 ELSE 0 END
           + CASE WHEN a.cleared_at IS NULL
                  THEN array_position(ARRAY['critical', 'warning', 'notice'], a.severity) ELSE 0 END) * 1e11
           - extract(epoch FROM a.raised_at)::float8 AS urgency,
       extract(epoch FROM a.raised_at)::float8 AS raised, extract(epoch FROM now() - a.raised_at)::float8 AS _age,
       extract(epoch FROM a.cleared_at)::float8 AS cleared, COALESCE(a.acknowledged_by, '') AS acknowledged_by,
       extract(epoch FROM a.acknowledged_at)::float8 AS acknowledged,
       ARRAY[a.rule, a.object, a.text, a.severity] AS words
  FROM (SELECT * FROM alarms WHERE $1::text IS NULL OR cluster_id = $1 OR cluster_id = ''
         ORDER BY cleared_at IS NOT NULL, id DESC LIMIT 2000) a

-- fleet_list_jobs --
-- Jobs of the leading hs-acs, and what came of their last runs.
-- $1 cluster_id or NULL (jobs are of no cluster)
SELECT 0::bigint AS tenant_id, hashtextextended(j.name, 0) & 9007199254740991 AS id, j.name, j.every_s, j.state,
       j.instance, extract(epoch FROM j.started_at)::float8 AS started, j.duration_s, j.result,
       COALESCE(j.error, '') AS error, j.runs, j.failures, ARRAY[j.name, j.state] AS words
  FROM jobs j
 WHERE $1::text IS NULL OR true

-- fleet_list_logins --
-- Devices that wait to be let in, or did lately.
-- $1 cluster_id or NULL
SELECT 0::bigint AS tenant_id, ('x' || substr(p.id, 1, 13))::bit(52)::bigint AS id, p.id AS login, p.hostname, p.os,
       p.version, p.address, p.seen_in AS cluster_id, p.seen_in AS cluster,
       CASE WHEN p.state = 'pending' AND p.expires_at < now() THEN 'expired' ELSE p.state END AS state,
       extract(epoch FROM p.created_at)::float8 AS created, extract(epoch FROM p.expires_at)::float8 AS expires,
       ARRAY[p.hostname, p.os, p.address, p.id] AS words
  FROM pending_logins p
 WHERE $1::text IS NULL OR p.seen_in = $1

-- fleet_policy --
-- The text of one version of a policy.
-- $1 cluster_id, $2 tenant_id, $3 version
SELECT text FROM policies WHERE cluster_id = $1 AND tenant_id = $2 AND version = $3
