-- put_load --
-- Adds to a process's minute: counts are summed, the worst stays, gauges are of now.
-- $1 cluster_id, $2 instance_id, $3 span_s, $4 connected, $5 registered, $6 changes, $7 frames, $8 bytes, $9 cpu_s, $10 rss, $11 loop_lag_s, $12 pool_used, $13 pool_size, $14 the process's clock (epoch seconds)
INSERT INTO load_samples (cluster_id, instance_id, minute, span_s, connected, registered, changes, frames, bytes,
                          cpu_s, rss, loop_lag_s, pool_used, pool_size, backlog, clock_skew_s)
SELECT $1, $2, date_trunc('minute', clock_timestamp(), 'UTC'), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
       (SELECT count(*) FROM requests WHERE cluster_id = $1 AND state IN ('queued', 'running')),
       $14::float8 - extract(epoch FROM clock_timestamp())::float8
ON CONFLICT (cluster_id, instance_id, minute) DO UPDATE
   SET span_s = load_samples.span_s + EXCLUDED.span_s, connected = EXCLUDED.connected,
       registered = EXCLUDED.registered, changes = load_samples.changes + EXCLUDED.changes,
       frames = load_samples.frames + EXCLUDED.frames, bytes = load_samples.bytes + EXCLUDED.bytes,
       cpu_s = load_samples.cpu_s + EXCLUDED.cpu_s, rss = EXCLUDED.rss,
       loop_lag_s = GREATEST(load_samples.loop_lag_s, EXCLUDED.loop_lag_s),
       pool_used = GREATEST(load_samples.pool_used, EXCLUDED.pool_used), pool_size = EXCLUDED.pool_size,
       backlog = EXCLUDED.backlog, clock_skew_s = EXCLUDED.clock_skew_s

-- trim_load --
-- Forgets samples older than an age, of one cluster or of all.
-- $1 cluster_id or NULL, $2 max_age_s
DELETE FROM load_samples
 WHERE ($1::text IS NULL OR cluster_id = $1) AND minute < clock_timestamp() - $2 * interval '1 second'

-- health_facts --
-- What alarms are judged by, as JSON: clusters, processes, jobs; dead deliveries, oldest request to hs-acs, now.
-- $1 silent_s, $2 sample_s, $3 standby_s, $4 dead_s
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
                             WHERE r.cluster_id = c.cluster_id AND r.state IN ('queued', 'running')))), '[]')
          FROM clusters c LEFT JOIN leases l ON l.name = 'cluster:' || c.cluster_id)::text,
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

-- fleet_alarms --
-- Open alarms, the worst first, then the newest; what was acknowledged comes last.
-- $1 cluster_id or NULL, $2 limit
SELECT id, cluster_id, severity, rule, object, text, extract(epoch FROM raised_at)::float8,
       COALESCE(acknowledged_by, ''), extract(epoch FROM acknowledged_at)::float8
  FROM alarms
 WHERE cleared_at IS NULL AND ($1::text IS NULL OR cluster_id = $1 OR cluster_id = '')
 ORDER BY acknowledged_at IS NOT NULL, array_position(ARRAY['critical', 'warning', 'notice'], severity), id DESC
 LIMIT $2

-- fleet_load --
-- Connected devices and changed devices a second of each cluster, by minutes before this one.
-- $1 cluster_id or NULL, $2 minutes
SELECT s.cluster_id,
       (extract(epoch FROM date_trunc('minute', now(), 'UTC') - s.minute) / 60)::int, sum(s.connected)::bigint,
       sum(s.changes / s.span_s)::float8
  FROM load_samples s
 WHERE s.minute > now() - $2 * interval '1 minute' AND s.cluster_id <> '' AND s.connected IS NOT NULL
   AND ($1::text IS NULL OR s.cluster_id = $1)
 GROUP BY 1, 2
