-- claim_acs_request --
-- The oldest request to the deployment that nobody carries out: leaders of lower epochs are gone.
-- $1 instance, $2 epoch
WITH picked AS (
    SELECT id FROM requests
     WHERE cluster_id = '' AND (state = 'queued' OR state = 'running' AND claimed_epoch <= $2)
     ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE requests r
   SET state = 'running', claimed_by = $1, attempts = r.attempts + 1, claimed_epoch = $2
  FROM picked p
 WHERE r.id = p.id
RETURNING r.id, r.cluster_id, r.tenant_id, r.kind, r.args::text, r.dedup, r.state, r.requested_by,
          extract(epoch FROM r.requested_at)::float8, r.attempts, r.claimed_by, r.claimed_epoch, r.progress::text,
          r.result::text, r.error, extract(epoch FROM r.finished_at)::float8

-- finish_acs_request --
-- Writes the outcome of a request that this leader holds: an error, or a result.
-- $1 request_id, $2 epoch, $3 result, $4 error
UPDATE requests
   SET state = CASE WHEN $4::text IS NULL THEN 'done' ELSE 'failed' END, result = $3::text::jsonb, error = $4,
       finished_at = clock_timestamp()
 WHERE id = $1 AND cluster_id = '' AND state = 'running' AND claimed_epoch = $2

-- trim_acs_requests --
-- Forgets requests to the deployment that ended longer ago than an age; answers how many.
-- $1 max_age_s
SELECT trim_requests('', $1)
