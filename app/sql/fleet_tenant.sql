-- fleet_tenant_card --
-- What is known of one tenant besides its row in the list, as JSON; nothing when it does not live there.
-- $1 cluster_id, $2 tenant_id, $3 spans of history, $4 hours of a span, $5 lines of the audit log, $6 reserve of a tenant without a limit
WITH used AS (
    SELECT $3::int - 1 - floor(extract(epoch FROM now() - u.hour) / (3600 * $4::int))::int AS span, u.registered, u.peak,
           u.connected_s, u.map_bytes, u.registrations
      FROM usage u
     WHERE u.tenant_id = $2 AND u.hour > now() - $3::int * $4::int * interval '1 hour'
), spans AS (
    SELECT g.span, max(u.registered) AS registered, max(u.peak) AS peak
      FROM generate_series(0, $3::int - 1) AS g (span) LEFT JOIN used u ON u.span = g.span
     GROUP BY g.span
)
SELECT jsonb_build_object(
           'registered', (SELECT jsonb_agg(s.registered ORDER BY s.span) FROM spans s),
           'peaks', (SELECT jsonb_agg(s.peak ORDER BY s.span) FROM spans s),
           'device_hours', (SELECT COALESCE(sum(u.connected_s), 0) / 3600 FROM used u),
           'map_bytes', (SELECT COALESCE(sum(u.map_bytes), 0)::bigint FROM used u),
           'registrations', (SELECT COALESCE(sum(u.registrations), 0)::bigint FROM used u),
           'routes', (SELECT COALESCE(sum(cardinality(n.approved_routes)), 0)::bigint FROM nodes n
                       WHERE n.tenant_id = t.tenant_id AND n.approved_routes <> '{}'),
           'max_routes', t.max_routes, 'max_requests', t.max_requests,
           'override_ends', extract(epoch FROM o.ends_at)::float8, 'override_by', COALESCE(o.created_by, ''),
           'former', COALESCE(o.former, '{}'),
           'moved', extract(epoch FROM t.moved_at)::float8,
           'moved_from', COALESCE((SELECT a.before ->> 'cluster' FROM audit_log a
                                    WHERE a.object = 'tenant:' || t.tenant_id AND a.action = 'tenant_move'
                                    ORDER BY a.id DESC LIMIT 1), ''),
           'labels', t.labels, 'reserved', GREATEST(k.devices, COALESCE(t.max_devices, $6::int)),
           'told', (SELECT COALESCE(jsonb_agg(jsonb_build_object(
                               'id', a.id, 'cluster_id', a.cluster_id, 'at', extract(epoch FROM a.at)::float8,
                               'actor', a.actor, 'action', a.action, 'object', a.object,
                               'before', COALESCE(a.before::text, ''), 'after', COALESCE(a.after::text, ''))
                           ORDER BY a.id DESC), '[]')
                      FROM (SELECT * FROM audit_log WHERE object = 'tenant:' || t.tenant_id
                             ORDER BY id DESC LIMIT $5) a))::text
  FROM tenants t
  JOIN tenant_counters k ON k.tenant_id = t.tenant_id
  LEFT JOIN quota_overrides o ON o.tenant_id = t.tenant_id
 WHERE t.cluster_id = $1 AND t.tenant_id = $2
