-- health_facts --
-- What alarms are judged by, as JSON: clusters, processes, jobs; dead deliveries, oldest request to hs-acs, now.
-- $1 silent_s, $2 sample_s, $3 standby_s, $4 dead_s, $5 expiring_s, $6 most to count of these, $7 per cent of a limit
SELECT (SELECT COALESCE(json_agg(json_build_object(
               'cluster_id', c.cluster_id, 'state', c.state, 'owner', COALESCE(l.holder, ''),
               'epoch', COALESCE(l.epoch, 0), 'owned', COALESCE(l.holder <> '' AND l.expires_at > now(), false),
               'expired', COALESCE(l.holder <> '' AND l.expires_at <= now(), false),
               'instances', (SELECT count(*) FROM instances i WHERE i.cluster_id = c.cluster_id
                                AND i.heartbeat_at > now() - $1 * interval '1 second'),
               'lost_standbys', (SELECT count(*) FROM instances i JOIN instances o ON o.instance_id = l.holder
                                  WHERE i.cluster_id = c.cluster_id AND i.heartbeat_at > o.started_at
                                    AND i.heartbeat_at BETWEEN now() - $3 * interval '1 second'
                                                           AND now() - $1 * interval '1 second'),
               'devices', (SELECT COALESCE(sum(k.devices), 0) FROM tenant_counters k
                            WHERE k.cluster_id = c.cluster_id),
               'max_devices', c.max_devices,
               'waited_s', (SELECT extract(epoch FROM now() - min(r.requested_at))::float8 FROM requests r
                             WHERE r.cluster_id = c.cluster_id AND r.state IN ('queued', 'running')),
               'quota_share', COALESCE(q.share, 0), 'near_quota', COALESCE(q.tenants, 0),
               -- one index range each, and no more of it than is told of
               'expiring_devices', (SELECT count(*) FROM (
                    SELECT 1 FROM nodes n
                     WHERE n.cluster_id = c.cluster_id AND n.expiry > now()
                       AND n.expiry <= now() + $5 * interval '1 second' LIMIT $6) e),
               'expiring_keys', (SELECT count(*) FROM (
                    SELECT 1 FROM pre_auth_keys k
                     WHERE k.cluster_id = c.cluster_id AND k.reusable AND NOT k.revoked
                       AND k.expiration - k.created_at > interval '24 hours'
                       AND k.expiration > now() AND k.expiration <= now() + $5 * interval '1 second'
                     LIMIT $6) e))), '[]')
          FROM clusters c LEFT JOIN leases l ON l.name = 'cluster:' || c.cluster_id
          LEFT JOIN (SELECT u.cluster_id, max(u.share)::float8 AS share, count(*) AS tenants
                       FROM (SELECT t.cluster_id, 100.0 * GREATEST(k.devices / NULLIF(t.max_devices, 0)::float8,
                                                                   k.users / NULLIF(t.max_users, 0)::float8,
                                                                   k.keys / NULLIF(t.max_keys, 0)::float8) AS share
                               FROM tenants t JOIN tenant_counters k ON k.tenant_id = t.tenant_id
                              WHERE t.status <> 'deleted') u
                      WHERE u.share >= $7 GROUP BY u.cluster_id) q ON q.cluster_id = c.cluster_id)::text,
       (SELECT COALESCE(json_agg(json_build_object(
               'cluster_id', i.cluster_id, 'instance', i.instance_id, 'version', i.version,
               'loop_lag_s', s.loop_lag_s, 'pool_used', s.pool_used, 'pool_size', s.pool_size,
               'clock_skew_s', s.clock_skew_s)), '[]')
          FROM instances i
          LEFT JOIN LATERAL (SELECT * FROM load_samples m
                              WHERE m.cluster_id = i.cluster_id AND m.instance_id = i.instance_id
                                AND m.minute > now() - $2 * interval '1 second'
                              ORDER BY m.minute DESC LIMIT 1) s ON true
         WHERE i.heartbeat_at > now() - $1 * interval '1 second')::text,
       (SELECT COALESCE(json_agg(json_build_object('name', j.name, 'error', j.error)), '[]')
          FROM jobs j WHERE j.state = 'failed')::text,
       dead_deliveries($4),
       (SELECT extract(epoch FROM now() - min(r.requested_at))::float8 FROM requests r
         WHERE r.cluster_id = '' AND r.state IN ('queued', 'running')),
       (SELECT CASE WHEN l.holder <> '' AND l.expires_at > now() THEN l.holder ELSE '' END FROM leases l
         WHERE l.name = 'acs'),
       extract(epoch FROM now())::float8

-- open_alarms --
-- Alarms that are open, for who begins to judge.
-- (no parameters)
SELECT rule, cluster_id, object, severity, text FROM alarms WHERE cleared_at IS NULL

-- keep_alarms --
-- These alarms are open and no others: new ones are raised, those that are over are cleared.
-- $1 rules, $2 cluster_ids, $3 objects, $4 severities, $5 texts
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
        AS w (rule, cluster_id, object, severity, text)
), over AS (
    UPDATE alarms a SET cleared_at = clock_timestamp()
     WHERE a.cleared_at IS NULL
       AND NOT EXISTS (SELECT 1 FROM wanted w
                        WHERE w.rule = a.rule AND w.cluster_id = a.cluster_id AND w.object = a.object)
)
INSERT INTO alarms (rule, cluster_id, object, severity, text)
SELECT rule, cluster_id, object, severity, text FROM wanted
ON CONFLICT (rule, cluster_id, object) WHERE cleared_at IS NULL
   DO UPDATE SET severity = EXCLUDED.severity, text = EXCLUDED.text
      WHERE (alarms.severity, alarms.text) IS DISTINCT FROM (EXCLUDED.severity, EXCLUDED.text)

-- acknowledge_alarm --
-- Somebody knows of an open alarm; who said so first stays. Answers whether it is open, no row for no alarm.
-- $1 alarm, $2 actor
UPDATE alarms
   SET acknowledged_by = CASE WHEN cleared_at IS NULL THEN COALESCE(acknowledged_by, $2) ELSE acknowledged_by END,
       acknowledged_at = CASE WHEN cleared_at IS NULL THEN COALESCE(acknowledged_at, clock_timestamp())
                              ELSE acknowledged_at END
 WHERE id = $1
RETURNING cleared_at IS NULL, cluster_id, rule, acknowledged_by

-- trim_alarms --
-- Forgets alarms that were cleared longer ago than an age.
-- $1 max_age_s
DELETE FROM alarms WHERE cleared_at < clock_timestamp() - $1 * interval '1 second'
