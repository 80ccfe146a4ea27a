-- put_usage --
-- Adds what tenants have used to their hours; the highest counts stay.
-- $1 cluster_id, $2 tenant_ids, $3 hours (epoch seconds), $4 registered, $5 peaks, $6 connected_s, $7 map_bytes, $8 registrations
INSERT INTO usage (cluster_id, tenant_id, hour, registered, peak, connected_s, map_bytes, registrations)
SELECT $1, u.tenant_id, to_timestamp(u.hour), u.registered, u.peak, u.connected_s, u.map_bytes, u.registrations
  FROM unnest($2::bigint[], $3::float8[], $4::int[], $5::int[], $6::float8[], $7::bigint[], $8::int[])
       AS u (tenant_id, hour, registered, peak, connected_s, map_bytes, registrations)
 ORDER BY u.tenant_id, u.hour
ON CONFLICT (tenant_id, hour, cluster_id) DO UPDATE
   SET registered = GREATEST(usage.registered, EXCLUDED.registered), peak = GREATEST(usage.peak, EXCLUDED.peak),
       connected_s = usage.connected_s + EXCLUDED.connected_s, map_bytes = usage.map_bytes + EXCLUDED.map_bytes,
       registrations = usage.registrations + EXCLUDED.registrations
 WHERE usage.cluster_id = $1

-- read_usage --
-- What tenants have used by hour, day or month, over all clusters; of one tenant or all.
-- $1 unit, $2 tenant_id, $3 from, $4 to (epoch seconds), $5 after_at (epoch seconds), $6 after_tenant, $7 limit
SELECT * FROM (
    SELECT extract(epoch FROM date_trunc($1, u.hour, 'UTC'))::float8 AS at, u.tenant_id,
           COALESCE(max(t.name), '') AS tenant, max(u.registered) AS registered, max(u.peak) AS peak,
           sum(u.connected_s) / 3600 AS device_hours, sum(u.map_bytes)::bigint AS map_bytes,
           sum(u.registrations)::bigint AS registrations
      FROM usage u LEFT JOIN tenants t ON t.tenant_id = u.tenant_id
     WHERE ($2::bigint IS NULL OR u.tenant_id = $2) AND u.hour >= to_timestamp($3) AND u.hour < to_timestamp($4)
     GROUP BY 1, 2) used
 WHERE (at, tenant_id) > ($5::float8, $6::bigint)
 ORDER BY at, tenant_id LIMIT $7

-- trim_usage --
-- Forgets usage before a number of months; answers how many rows.
-- $1 months
WITH gone AS (
    DELETE FROM usage WHERE hour < date_trunc('month', clock_timestamp(), 'UTC') - make_interval(months => $1)
    RETURNING 1)
SELECT count(*)::int FROM gone

-- month_usage --
-- What each tenant has used in a time, with its plan of now.
-- $1 from, $2 to (epoch seconds)
SELECT u.tenant_id, COALESCE(t.name, ''), t.plan, round(sum(u.connected_s)::numeric / 3600, 6),
       sum(u.map_bytes)::bigint
  FROM usage u LEFT JOIN tenants t ON t.tenant_id = u.tenant_id
 WHERE u.hour >= to_timestamp($1) AND u.hour < to_timestamp($2)
 GROUP BY u.tenant_id, t.name, t.plan ORDER BY u.tenant_id

-- read_prices --
-- The price list.
-- (no parameters)
SELECT currency, device_hour, gigabyte, plan_fees::text, version FROM price_lists

-- put_prices --
-- The price list from now on.
-- $1 currency, $2 device_hour, $3 gigabyte, $4 plan_fees
INSERT INTO price_lists (currency, device_hour, gigabyte, plan_fees) VALUES ($1, $2, $3, $4::text::jsonb)
ON CONFLICT (id) DO UPDATE
   SET currency = $1, device_hour = $2, gigabyte = $3, plan_fees = $4::text::jsonb, version = price_lists.version + 1
RETURNING currency, device_hour, gigabyte, plan_fees::text, version

-- put_override --
-- Remembers the limits that come back; those of an override that is replaced stay remembered.
-- $1 tenant_id, $2 former, $3 ends_at (epoch seconds), $4 created_by
INSERT INTO quota_overrides (tenant_id, former, ends_at, created_by)
VALUES ($1, $2::text::jsonb, to_timestamp($3), $4)
ON CONFLICT (tenant_id) DO UPDATE
   SET former = EXCLUDED.former || quota_overrides.former, ends_at = to_timestamp($3), created_by = $4

-- read_override --
-- The override of a tenant.
-- $1 tenant_id
SELECT former::text, extract(epoch FROM ends_at)::float8, created_by FROM quota_overrides WHERE tenant_id = $1

-- ended_overrides --
-- Overrides whose time is over, locked until the end of the transaction.
-- (no parameters)
SELECT tenant_id, former::text FROM quota_overrides WHERE ends_at <= clock_timestamp()
 ORDER BY tenant_id FOR UPDATE SKIP LOCKED

-- end_override --
-- An override is over: the limits that were before it are in force again.
-- $1 tenant_id, $2 former
WITH gone AS (DELETE FROM quota_overrides WHERE tenant_id = $1)
UPDATE tenants
   SET max_devices = CASE WHEN $2::text::jsonb ? 'max_devices' THEN ($2::text::jsonb ->> 'max_devices')::int ELSE max_devices END,
       max_users = CASE WHEN $2::text::jsonb ? 'max_users' THEN ($2::text::jsonb ->> 'max_users')::int ELSE max_users END,
       max_keys = CASE WHEN $2::text::jsonb ? 'max_keys' THEN ($2::text::jsonb ->> 'max_keys')::int ELSE max_keys END,
       max_routes = CASE WHEN $2::text::jsonb ? 'max_routes' THEN ($2::text::jsonb ->> 'max_routes')::int ELSE max_routes END,
       max_requests = CASE WHEN $2::text::jsonb ? 'max_requests' THEN ($2::text::jsonb ->> 'max_requests')::int ELSE max_requests END,
       version = version + 1
 WHERE tenant_id = $1

-- invoices_ready --
-- Says once that a month's invoices can be made; nothing when it was said, or when nobody used anything.
-- $1 month (YYYY-MM), $2 since (epoch seconds), $3 until (epoch seconds), $4 actor
INSERT INTO audit_log (cluster_id, actor, action, object, after)
SELECT '', $4, 'invoice_ready', 'month:' || $1::text,
       jsonb_build_object('month', $1::text, 'currency', p.currency, 'tenants', u.tenants)
  FROM price_lists p,
       (SELECT count(DISTINCT tenant_id) AS tenants FROM usage
         WHERE hour >= to_timestamp($2) AND hour < to_timestamp($3)) u
 WHERE u.tenants > 0
   AND NOT EXISTS (SELECT 1 FROM audit_log a WHERE a.object = 'month:' || $1::text AND a.action = 'invoice_ready')
RETURNING id
