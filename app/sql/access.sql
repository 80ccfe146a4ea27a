-- create_api_token --
-- A token for hs-acs; its secret stays with the asker.
-- $1 prefix, $2 hash, $3 name, $4 scope, $5 tenant_id, $6 created_by, $7 expires_at (epoch seconds)
INSERT INTO api_tokens (prefix, hash, name, scope, tenant_id, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7))
RETURNING id, prefix, name, scope, tenant_id, created_by, extract(epoch FROM created_at)::float8,
          extract(epoch FROM expires_at)::float8, extract(epoch FROM revoked_at)::float8,
          extract(epoch FROM last_used_at)::float8

-- list_api_tokens --
-- Tokens by id, after an id.
-- $1 after_id, $2 limit
SELECT id, prefix, name, scope, tenant_id, created_by, extract(epoch FROM created_at)::float8,
       extract(epoch FROM expires_at)::float8, extract(epoch FROM revoked_at)::float8,
       extract(epoch FROM last_used_at)::float8
  FROM api_tokens WHERE id > $1 ORDER BY id LIMIT $2

-- find_api_token --
-- The token of a prefix that is in force now.
-- $1 prefix
SELECT hash, id, prefix, name, scope, tenant_id, created_by, extract(epoch FROM created_at)::float8,
       extract(epoch FROM expires_at)::float8, extract(epoch FROM revoked_at)::float8,
       extract(epoch FROM last_used_at)::float8
  FROM api_tokens
 WHERE prefix = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())

-- revoke_api_token --
-- Ends a token; the same again changes nothing.
-- $1 id
UPDATE api_tokens SET revoked_at = COALESCE(revoked_at, clock_timestamp()) WHERE id = $1
RETURNING id, prefix, name, scope, tenant_id, created_by, extract(epoch FROM created_at)::float8,
          extract(epoch FROM expires_at)::float8, extract(epoch FROM revoked_at)::float8,
          extract(epoch FROM last_used_at)::float8

-- touch_api_token --
-- A token was used; written at most once a minute.
-- $1 id
UPDATE api_tokens SET last_used_at = clock_timestamp()
 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')

-- begin_idempotent --
-- Claims an idempotency key: no row when somebody has it. One left unanswered by a dead process is free again.
-- $1 token_id, $2 key, $3 fingerprint, $4 abandoned_s
INSERT INTO idempotent_answers (token_id, key, fingerprint) VALUES ($1, $2, $3)
ON CONFLICT (token_id, key) DO UPDATE SET started_at = clock_timestamp()
 WHERE idempotent_answers.answer IS NULL AND idempotent_answers.fingerprint = $3
   AND idempotent_answers.started_at < clock_timestamp() - $4 * interval '1 second'
RETURNING true

-- idempotent_answer --
-- What was asked under a key, and the answer if there is one.
-- $1 token_id, $2 key
SELECT fingerprint, status, answer FROM idempotent_answers WHERE token_id = $1 AND key = $2

-- keep_idempotent --
-- The answer for whoever asks again.
-- $1 token_id, $2 key, $3 status, $4 answer
UPDATE idempotent_answers SET status = $3, answer = $4 WHERE token_id = $1 AND key = $2

-- forget_idempotent --
-- What failed in a way that may pass is asked anew.
-- $1 token_id, $2 key
DELETE FROM idempotent_answers WHERE token_id = $1 AND key = $2

-- trim_idempotent --
-- Answers older than so many seconds.
-- $1 max_age_s
DELETE FROM idempotent_answers WHERE started_at < clock_timestamp() - $1 * interval '1 second'
