-- create_webhook --
-- A webhook; its signing key is made of the nonce.
-- $1 url, $2 events, $3 nonce, $4 created_by
INSERT INTO webhooks (url, events, nonce, created_by) VALUES ($1, $2, $3, $4) RETURNING id

-- list_webhooks --
-- All webhooks by id.
-- (no parameters)
SELECT w.id, w.url, w.events, w.created_by, extract(epoch FROM w.created_at)::float8,
       (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'waiting')::int,
       (SELECT count(*) FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.state = 'dead')::int
  FROM webhooks w ORDER BY w.id

-- delete_webhook --
-- A webhook and all that waits for it.
-- $1 id
DELETE FROM webhooks WHERE id = $1

-- claim_deliveries --
-- Deliveries that are due, each for one claimant; they are due again should it die.
-- $1 again_s, $2 limit
UPDATE webhook_deliveries d SET attempts = attempts + 1, next_at = clock_timestamp() + $1 * interval '1 second'
  FROM webhooks w
 WHERE w.id = d.webhook_id AND d.id IN (
       SELECT id FROM webhook_deliveries WHERE state = 'waiting' AND next_at <= clock_timestamp()
        ORDER BY next_at, id LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING d.id, d.event, d.body, d.attempts, w.url, w.nonce

-- end_delivery --
-- What came of an attempt: delivered, dead, or due again after a pause.
-- $1 id, $2 state, $3 error, $4 pause_s
UPDATE webhook_deliveries
   SET state = $2, error = $3, next_at = clock_timestamp() + $4 * interval '1 second',
       ended_at = CASE WHEN $2 <> 'waiting' THEN clock_timestamp() END
 WHERE id = $1

-- list_deliveries --
-- Deliveries in a state, the newest first: before an id.
-- $1 state, $2 before_id, $3 limit
SELECT id, webhook_id, event, state, attempts, error, extract(epoch FROM created_at)::float8
  FROM webhook_deliveries WHERE state = $1 AND ($2::bigint = 0 OR id < $2) ORDER BY id DESC LIMIT $3

-- retry_delivery --
-- A dead delivery is tried again as if it were new.
-- $1 id
UPDATE webhook_deliveries SET state = 'waiting', attempts = 0, next_at = clock_timestamp(), ended_at = NULL
 WHERE id = $1 AND state = 'dead'

-- trim_deliveries --
-- Forgets deliveries that ended longer ago than a time; answers how many.
-- $1 kept_s
WITH gone AS (
    DELETE FROM webhook_deliveries WHERE ended_at < clock_timestamp() - $1 * interval '1 second' RETURNING 1)
SELECT count(*)::int FROM gone
