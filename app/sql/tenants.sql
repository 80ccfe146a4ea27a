-- cluster_loads --
-- What placement looks at: every cluster, what is there, what is reserved, and whether somebody owns it.
-- $1 reserve of a tenant without a limit
SELECT c.cluster_id, c.state, c.region, c.labels::text, c.weight, c.max_tenants, c.max_devices, c.version,
       COALESCE(t.tenants, 0)::int, COALESCE(t.devices, 0)::int, COALESCE(t.reserved, 0)::int,
       COALESCE(t.dedicated, '{}'), COALESCE(l.holder <> '' AND l.expires_at > clock_timestamp(), false),
       COALESCE(i.login_url, '')
  FROM clusters c
  LEFT JOIN (SELECT n.cluster_id, count(*) FILTER (WHERE NOT n.is_home) AS tenants, sum(k.devices) AS devices,
                    sum(GREATEST(k.devices, CASE WHEN n.is_home THEN k.devices ELSE COALESCE(n.max_devices, $1) END))
                        AS reserved,
                    array_agg(n.name ORDER BY n.tenant_id) FILTER (WHERE n.dedicated) AS dedicated
               FROM tenants n JOIN tenant_counters k ON k.tenant_id = n.tenant_id
              WHERE n.status <> 'deleted' GROUP BY n.cluster_id) t ON t.cluster_id = c.cluster_id
  LEFT JOIN leases l ON l.name = 'cluster:' || c.cluster_id
  LEFT JOIN instances i ON i.instance_id = l.holder
 ORDER BY c.cluster_id

-- lock_placement --
-- One decision of where a tenant goes at a time, in the whole deployment.
-- (no parameters)
SELECT pg_advisory_xact_lock(7403, 0)

-- update_cluster --
-- What an operator says about a cluster; NULL keeps.
-- $1 cluster_id, $2 state, $3 region, $4 labels, $5 weight, $6 max_tenants, $7 max_devices, $8 version
UPDATE clusters
   SET state = COALESCE($2, state), region = COALESCE($3, region), labels = COALESCE($4::text::jsonb, labels),
       weight = COALESCE($5, weight), max_tenants = COALESCE($6, max_tenants),
       max_devices = COALESCE($7, max_devices), version = version + 1
 WHERE cluster_id = $1 AND ($8::bigint IS NULL OR version = $8)
RETURNING version

-- place_tenant --
-- The tenant of a name, new, in the cluster that was chosen for it.
-- $1 cluster_id, $2 name, $3 label, $4 max_devices, $5 max_users, $6 max_keys
SELECT create_tenant($1, $2, $3, false, $4, $5, $6)

-- describe_tenant --
-- What was wished for with a new tenant.
-- $1 tenant_id, $2 plan, $3 region, $4 labels, $5 dedicated, $6 pinned, $7 max_routes, $8 max_requests
UPDATE tenants SET plan = $2, region = $3, labels = $4::text::jsonb, dedicated = $5, pinned = $6, max_routes = $7,
       max_requests = $8
 WHERE tenant_id = $1

-- acs_tenants --
-- Tenants by id: after one, or the one of an id or name; deleted ones only when asked for.
-- $1 tenant_id, $2 name, $3 cluster_id, $4 with deleted, $5 after_id, $6 limit
SELECT t.tenant_id, t.cluster_id, t.name, t.dns_label, t.status, t.is_home, t.plan, t.region, t.labels::text,
       t.dedicated, t.pinned, t.max_devices, t.max_users, t.max_keys, t.max_routes, t.max_requests,
       k.devices, k.users, k.keys,
       (SELECT COALESCE(sum(cardinality(n.approved_routes)), 0)::int FROM nodes n
         WHERE n.tenant_id = t.tenant_id AND n.approved_routes <> '{}'), t.version,
       extract(epoch FROM t.created_at)::float8, extract(epoch FROM t.deleted_at)::float8
  FROM tenants t JOIN tenant_counters k ON k.tenant_id = t.tenant_id
 WHERE ($1::bigint IS NULL OR t.tenant_id = $1) AND ($2::text IS NULL OR t.name = $2)
   AND ($3::text IS NULL OR t.cluster_id = $3) AND ($4 OR t.status <> 'deleted') AND t.tenant_id > $5
 ORDER BY t.tenant_id LIMIT $6

-- update_tenant --
-- What an operator changes; NULL keeps. A limit of -1 takes the limit away, '' the plan or the pin.
-- $1 tenant_id, $2 name, $3 status, $4 plan, $5 labels, $6 max_devices, $7 max_users, $8 max_keys, $9 version, $10 max_routes, $11 max_requests, $12 pinned
UPDATE tenants
   SET name = COALESCE($2, name), status = COALESCE($3, status), labels = COALESCE($5::text::jsonb, labels),
       plan = NULLIF(COALESCE($4, plan), ''), pinned = NULLIF(COALESCE($12, pinned), ''),
       max_devices = NULLIF(COALESCE($6, max_devices), -1), max_users = NULLIF(COALESCE($7, max_users), -1),
       max_keys = NULLIF(COALESCE($8, max_keys), -1), max_routes = NULLIF(COALESCE($10, max_routes), -1),
       max_requests = NULLIF(COALESCE($11, max_requests), -1),
       deleted_at = CASE WHEN $3 = 'deleted' THEN COALESCE(deleted_at, clock_timestamp())
                         WHEN $3 IS NULL THEN deleted_at END,
       version = version + 1
 WHERE tenant_id = $1 AND ($9::bigint IS NULL OR version = $9) AND NOT is_home
RETURNING version

-- put_plan --
-- A plan, new or as it is from now on.
-- $1 name, $2 max_devices, $3 max_users, $4 max_keys, $5 max_routes, $6 max_requests
INSERT INTO plans (name, max_devices, max_users, max_keys, max_routes, max_requests) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO UPDATE
   SET max_devices = $2, max_users = $3, max_keys = $4, max_routes = $5, max_requests = $6, version = plans.version + 1
RETURNING name, max_devices, max_users, max_keys, max_routes, max_requests, version

-- apply_plan --
-- The limits of all tenants of a plan are the plan's.
-- $1 name, $2 max_devices, $3 max_users, $4 max_keys, $5 max_routes, $6 max_requests
UPDATE tenants SET max_devices = $2, max_users = $3, max_keys = $4, max_routes = $5, max_requests = $6,
       version = version + 1
 WHERE plan = $1

-- list_plans --
-- All plans by name, or the one of a name.
-- $1 name
SELECT name, max_devices, max_users, max_keys, max_routes, max_requests, version FROM plans
 WHERE $1::text IS NULL OR name = $1 ORDER BY name

-- create_join_token --
-- A token to join with; its secret stays with the asker.
-- $1 prefix, $2 hash, $3 tenant, $4 user_name, $5 uses_left, $6 created_by, $7 expires_at (epoch seconds)
INSERT INTO join_tokens (prefix, hash, tenant, user_name, uses_left, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7)) RETURNING id

-- use_join_token --
-- Counts a use of a token that is in force; no row for any other.
-- $1 prefix, $2 hash
UPDATE join_tokens SET uses_left = uses_left - 1
 WHERE prefix = $1 AND hash = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
   AND (uses_left IS NULL OR uses_left > 0)
RETURNING tenant, user_name

-- move_tenant --
-- A tenant to another cluster with all that is its: 'moved', or what stands in the way.
-- $1 tenant_id, $2 source, $3 target, $4 reserve of a tenant without a limit, $5 actor, $6 why
SELECT move_tenant($1, $2, $3, $4, $5, $6)

-- admit_joining_clusters --
-- Clusters that wait to be admitted and are served get tenants from now on.
-- (no parameters)
UPDATE clusters c SET state = 'active', version = version + 1
  FROM leases l
 WHERE c.state = 'joining' AND l.name = 'cluster:' || c.cluster_id AND l.holder <> ''
   AND l.expires_at > clock_timestamp()
RETURNING c.cluster_id

-- tenants_to_purge --
-- Tenants deleted longer ago than the grace.
-- $1 grace_s
SELECT tenant_id FROM tenants
 WHERE status = 'deleted' AND NOT is_home AND deleted_at < clock_timestamp() - $1 * interval '1 second'
 ORDER BY tenant_id

-- purge_tenant --
-- A deleted tenant is taken away for good; what it had, no row when it is not to be purged.
-- $1 tenant_id, $2 grace_s
SELECT p_cluster, p_name, p_devices, p_users, p_keys FROM purge_tenant($1, $2)

-- list_join_tokens --
-- Join tokens by id, after an id, of all tenants or of one.
-- $1 tenant, $2 after_id, $3 limit
SELECT id, prefix, tenant, user_name, uses_left, created_by, extract(epoch FROM created_at)::float8,
       extract(epoch FROM expires_at)::float8, extract(epoch FROM revoked_at)::float8
  FROM join_tokens WHERE ($1::text IS NULL OR tenant = $1) AND id > $2 ORDER BY id LIMIT $3

-- revoke_join_token --
-- Ends a join token, of any tenant or only if it is of this one; the same again changes nothing.
-- $1 id, $2 tenant
UPDATE join_tokens SET revoked_at = COALESCE(revoked_at, clock_timestamp())
 WHERE id = $1 AND ($2::text IS NULL OR tenant = $2)
RETURNING id, prefix, tenant, user_name, uses_left, created_by, extract(epoch FROM created_at)::float8,
          extract(epoch FROM expires_at)::float8, extract(epoch FROM revoked_at)::float8

-- rename_in_join_tokens --
-- A tenant has another name: its join tokens go with it.
-- $1 tenant, $2 new name
UPDATE join_tokens SET tenant = $2 WHERE tenant = $1
