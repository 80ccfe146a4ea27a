-- planning_seats --
-- Every tenant as the planner sees it.
-- $1 reserve of a tenant without a limit
SELECT t.tenant_id, t.name, t.cluster_id, t.region, t.labels::text, t.pinned, t.dedicated,
       GREATEST(k.devices, COALESCE(t.max_devices, $1))::int, t.is_home
  FROM tenants t JOIN tenant_counters k ON k.tenant_id = t.tenant_id
 WHERE t.status <> 'deleted'
 ORDER BY t.tenant_id

-- create_rebalance --
-- A plan, with its steps in order.
-- $1 purpose, $2 subject, $3 why, $4 dry_run, $5 created_by, $6 tenant_ids, $7 tenants, $8 sources, $9 targets, $10 devices
WITH plan AS (
    INSERT INTO rebalances (purpose, subject, why, dry_run, created_by)
    VALUES ($1, $2, $3, $4::text::jsonb, $5) RETURNING id),
     steps AS (
    INSERT INTO rebalance_steps (rebalance_id, step, tenant_id, tenant, source, target, devices)
    SELECT plan.id, s.step, s.tenant_id, s.tenant, s.source, s.target, s.devices
      FROM plan, unnest($6::bigint[], $7::text[], $8::text[], $9::text[], $10::int[])
                 WITH ORDINALITY AS s (tenant_id, tenant, source, target, devices, step))
SELECT id FROM plan

-- list_rebalances --
-- Plans by id, newest first: before an id, or the one of an id.
-- $1 id, $2 before_id, $3 limit
SELECT r.id, r.purpose, r.subject, r.state, r.why, r.dry_run::text, r.error, r.created_by,
       extract(epoch FROM r.created_at)::float8, r.approved_by, extract(epoch FROM r.ended_at)::float8, r.version,
       c.steps, c.devices, c.done, c.failed
  FROM rebalances r
 CROSS JOIN LATERAL (
       SELECT count(*)::int AS steps, COALESCE(sum(s.devices) FILTER (WHERE s.state <> 'skipped'), 0)::int AS devices,
              (count(*) FILTER (WHERE s.state = 'done'))::int AS done,
              (count(*) FILTER (WHERE s.state = 'failed' OR s.state = 'skipped' AND s.ended_at IS NOT NULL))::int AS failed
         FROM rebalance_steps s WHERE s.rebalance_id = r.id) c
 WHERE ($1::bigint IS NULL OR r.id = $1) AND ($2::bigint = 0 OR r.id < $2)
 ORDER BY r.id DESC LIMIT $3

-- rebalance_steps --
-- The steps of a plan in order.
-- $1 rebalance_id
SELECT step, tenant_id, tenant, source, target, devices, state, error, connected_before, connected_after,
       extract(epoch FROM ended_at)::float8
  FROM rebalance_steps WHERE rebalance_id = $1 ORDER BY step

-- lock_rebalance --
-- The state of a plan, held until the end of the transaction.
-- $1 id
SELECT state, version FROM rebalances WHERE id = $1 FOR UPDATE

-- set_rebalance --
-- A plan is in another state; what is NULL is kept.
-- $1 id, $2 state, $3 error, $4 approved_by, $5 ended
UPDATE rebalances
   SET state = $2, error = $3, approved_by = COALESCE($4, approved_by), version = version + 1,
       ended_at = CASE WHEN $5 THEN clock_timestamp() END,
       wave_at = CASE WHEN $2 = 'verifying' THEN clock_timestamp() END
 WHERE id = $1

-- skip_step --
-- A step of a plan is left out or taken in, if it is in a state; nothing else.
-- $1 rebalance_id, $2 step, $3 was, $4 state
UPDATE rebalance_steps SET state = $4 WHERE rebalance_id = $1 AND step = $2 AND state = $3 RETURNING step

-- put_checks --
-- What a plan would come to, worked out anew; the notes of its proposal stay.
-- $1 id, $2 after, $3 notes
UPDATE rebalances
   SET dry_run = dry_run || jsonb_build_object(
           'after', $2::text::jsonb, 'proposed', COALESCE(dry_run -> 'proposed', dry_run -> 'notes'),
           'notes', COALESCE(dry_run -> 'proposed', dry_run -> 'notes') || $3::text::jsonb),
       version = version + 1
 WHERE id = $1

-- due_rebalances --
-- Plans that are to be carried on now: of those that move, the pause since their last wave is over.
-- $1 pause_s, $2 settle_s
SELECT id FROM rebalances
 WHERE state IN ('applying', 'rolling_back', 'verifying')
   AND (wave_at IS NULL OR wave_at < clock_timestamp()
        - (CASE state WHEN 'verifying' THEN $2::float8 ELSE $1::float8 END) * interval '1 second')
 ORDER BY id

-- begin_wave --
-- The pause until the next wave counts from now on.
-- $1 id
UPDATE rebalances SET wave_at = clock_timestamp() WHERE id = $1

-- next_steps --
-- Steps to carry out next, or, backwards, to undo.
-- $1 rebalance_id, $2 undo, $3 limit
SELECT step, tenant_id, tenant, source, target FROM rebalance_steps
 WHERE rebalance_id = $1 AND state = CASE WHEN $2 THEN 'done' ELSE 'waiting' END
 ORDER BY CASE WHEN $2 THEN -step ELSE step END LIMIT $3

-- lock_step --
-- The state of a step, held until the end of the transaction.
-- $1 rebalance_id, $2 step
SELECT state FROM rebalance_steps WHERE rebalance_id = $1 AND step = $2 FOR UPDATE

-- end_step --
-- What came of a step.
-- $1 rebalance_id, $2 step, $3 state, $4 error, $5 connected_before
UPDATE rebalance_steps
   SET state = $3, error = $4, connected_before = COALESCE($5, connected_before), ended_at = clock_timestamp()
 WHERE rebalance_id = $1 AND step = $2

-- connected_devices --
-- How many devices of a tenant are connected.
-- $1 cluster_id, $2 tenant_id
SELECT count(*)::int FROM node_state WHERE cluster_id = $1 AND tenant_id = $2 AND online

-- tenant_place --
-- Where a tenant lives.
-- $1 tenant_id
SELECT cluster_id FROM tenants WHERE tenant_id = $1

-- count_back --
-- Devices that are connected again, for all steps of a plan that were carried out.
-- $1 rebalance_id
UPDATE rebalance_steps s
   SET connected_after = (SELECT count(*) FROM node_state n WHERE n.tenant_id = s.tenant_id AND n.online)
 WHERE s.rebalance_id = $1 AND s.state = 'done'

-- moved_today --
-- Devices moved by plans of one author within a time.
-- $1 created_by, $2 within_s
SELECT COALESCE(sum(s.devices), 0)::int FROM rebalances r JOIN rebalance_steps s ON s.rebalance_id = r.id
 WHERE r.created_by = $1 AND s.state = 'done' AND s.ended_at > clock_timestamp() - $2 * interval '1 second'

-- open_rebalances --
-- Plans that are not at their end, of a purpose and a subject.
-- $1 purpose, $2 subject
SELECT id, state FROM rebalances
 WHERE purpose = $1 AND subject = $2 AND ended_at IS NULL ORDER BY id

-- end_draining --
-- Clusters that are being drained and have no tenants left are drained.
-- (no parameters)
UPDATE clusters c SET state = 'drained', version = version + 1
 WHERE c.state = 'draining'
   AND NOT EXISTS (SELECT 1 FROM tenants t WHERE t.cluster_id = c.cluster_id AND NOT t.is_home AND t.status <> 'deleted')
RETURNING c.cluster_id

-- lost_clusters --
-- Clusters whose owner has been lost for longer than a time, without a standby that is heard of.
-- $1 lost_s, $2 silent_s
SELECT c.cluster_id FROM clusters c JOIN leases l ON l.name = 'cluster:' || c.cluster_id
 WHERE c.state IN ('active', 'draining')
   AND GREATEST(l.renewed_at, l.expires_at) < clock_timestamp() - $1 * interval '1 second'
   AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.cluster_id = c.cluster_id AND i.kind = 'node'
                      AND i.heartbeat_at > clock_timestamp() - $2 * interval '1 second')
   AND EXISTS (SELECT 1 FROM tenants t WHERE t.cluster_id = c.cluster_id AND NOT t.is_home AND t.status <> 'deleted')
 ORDER BY c.cluster_id
