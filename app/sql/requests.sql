-- submit_request --
-- Asks a cluster's owner for something; nothing while an equal wish (kind and dedup) is queued.
-- $1 cluster_id, $2 tenant_id, $3 request_kind, $4 args, $5 dedup, $6 actor
INSERT INTO requests (cluster_id, tenant_id, kind, args, dedup, requested_by)
VALUES ($1, $2, $3, $4::text::jsonb, $5, $6)
ON CONFLICT (cluster_id, kind, dedup) WHERE state = 'queued' AND dedup IS NOT NULL DO NOTHING
RETURNING id

-- queued_request --
-- The queued request that an equal wish meets.
-- $1 cluster_id, $2 request_kind, $3 dedup
SELECT id FROM requests WHERE cluster_id = $1 AND kind = $2 AND dedup = $3 AND state = 'queued'

-- request_place --
-- Whether a cluster has this tenant, and how many requests wait for its owner; without a cluster: for hs-acs.
-- $1 cluster_id, $2 tenant_id
SELECT $1 = '' OR EXISTS (SELECT 1 FROM tenants WHERE cluster_id = $1 AND tenant_id = $2),
       (SELECT count(*) FROM requests WHERE cluster_id = $1 AND state IN ('queued', 'running'))

-- get_request --
-- One request by its id, which is unique in the deployment.
-- $1 request_id
SELECT id, cluster_id, tenant_id, kind, args::text, dedup, state, requested_by,
       extract(epoch FROM requested_at)::float8, attempts, claimed_by, claimed_epoch, progress::text, result::text,
       error, extract(epoch FROM finished_at)::float8
  FROM requests
 WHERE id = $1

-- claim_request --
-- The oldest request that is queued or was left by an owner of a lower epoch; $2: or of this epoch.
-- $1 cluster_id, $2 resume
WITH picked AS (
    SELECT id FROM requests
     WHERE cluster_id = $1
       AND (state = 'queued'
            OR state = 'running' AND ($2 OR claimed_epoch < NULLIF(current_setting('hs.epoch', true), '')::bigint))
     ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE requests r
   SET state = 'running', claimed_by = current_setting('hs.origin', true), attempts = r.attempts + 1,
       claimed_epoch = NULLIF(current_setting('hs.epoch', true), '')::bigint
  FROM picked p
 WHERE r.cluster_id = $1 AND r.id = p.id
RETURNING r.id, r.cluster_id, r.tenant_id, r.kind, r.args::text, r.dedup, r.state, r.requested_by,
          extract(epoch FROM r.requested_at)::float8, r.attempts, r.claimed_by, r.claimed_epoch, r.progress::text,
          r.result::text, r.error, extract(epoch FROM r.finished_at)::float8

-- finish_request --
-- Writes the outcome of a request that this owner holds: an error, or a result.
-- $1 cluster_id, $2 request_id, $3 result, $4 error
UPDATE requests
   SET state = CASE WHEN $4::text IS NULL THEN 'done' ELSE 'failed' END, result = $3::text::jsonb, error = $4,
       finished_at = clock_timestamp()
 WHERE cluster_id = $1 AND id = $2 AND state = 'running'
   AND claimed_epoch = NULLIF(current_setting('hs.epoch', true), '')::bigint

-- progress_request --
-- How far this owner is with a request that it holds.
-- $1 cluster_id, $2 request_id, $3 progress
UPDATE requests SET progress = $3::text::jsonb
 WHERE cluster_id = $1 AND id = $2 AND state = 'running'
   AND claimed_epoch = NULLIF(current_setting('hs.epoch', true), '')::bigint

-- count_standbys --
-- Other processes of a cluster that were heard of within a time.
-- $1 cluster_id, $2 silent_s
SELECT count(*)::int FROM instances
 WHERE cluster_id = $1 AND kind = 'node' AND instance_id <> current_setting('hs.origin', true)
   AND heartbeat_at > clock_timestamp() - $2::float8 * interval '1 second'

-- trim_requests --
-- Forgets requests that ended longer ago than an age; answers how many.
-- $1 cluster_id, $2 max_age_s
SELECT trim_requests($1, $2)
