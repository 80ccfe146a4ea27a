-- put_load --
-- Adds to a process's minute: counts are summed, the worst stays, gauges are of now.
-- $1 cluster_id, $2 instance_id, $3 span_s, $4 connected, $5 registered, $6 changes, $7 frames, $8 bytes, $9 cpu_s, $10 rss, $11 loop_lag_s, $12 pool_used, $13 pool_size, $14 process_clock (epoch seconds)
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
