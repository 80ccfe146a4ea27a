-- lock_tenant --
-- First statement of a transaction on one tenant: its status, 'elsewhere', or NULL.
-- $1 cluster_id, $2 tenant_id
SELECT lock_tenant($1, $2)

-- find_tenant --
-- A tenant by name; the home tenant when the name is NULL.
-- $1 cluster_id, $2 name
SELECT tenant_id, cluster_id, name, dns_label, status, is_home, extract(epoch FROM created_at)::float8
  FROM tenants
 WHERE cluster_id = $1 AND (name = $2 OR ($2::text IS NULL AND is_home))

-- lock_counters --
-- Serialises what counts against a tenant's quotas, and reads counts and limits.
-- $1 cluster_id, $2 tenant_id
SELECT c.users, t.max_users, c.keys, t.max_keys
  FROM tenant_counters c JOIN tenants t ON t.tenant_id = c.tenant_id
 WHERE c.cluster_id = $1 AND c.tenant_id = $2
   FOR NO KEY UPDATE OF c

-- insert_user --
-- A new user of a tenant of this cluster.
-- $1 cluster_id, $2 tenant_id, $3 name, $4 display_name, $5 email, $6 profile_pic_url
INSERT INTO users (tenant_id, cluster_id, name, display_name, email, profile_pic_url)
SELECT t.tenant_id, t.cluster_id, $3, $4, $5, $6 FROM tenants t WHERE t.cluster_id = $1 AND t.tenant_id = $2
RETURNING id, tenant_id, name, display_name, email, profile_pic_url, extract(epoch FROM created_at)::float8, role

-- list_users --
-- Users of a tenant, all or by name.
-- $1 cluster_id, $2 tenant_id, $3 name or NULL
SELECT id, tenant_id, name, display_name, email, profile_pic_url, extract(epoch FROM created_at)::float8, role
  FROM users
 WHERE cluster_id = $1 AND tenant_id = $2 AND ($3::text IS NULL OR name = $3)
 ORDER BY id

-- lock_user --
-- A user, locked until the end of the transaction.
-- $1 cluster_id, $2 tenant_id, $3 user_id
SELECT id, tenant_id, name, display_name, email, profile_pic_url, extract(epoch FROM created_at)::float8, role
  FROM users
 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3
   FOR UPDATE

-- rename_user --
-- Gives a user another name.
-- $1 cluster_id, $2 tenant_id, $3 user_id, $4 name
UPDATE users SET name = $4 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3

-- set_user_role --
-- Gives a user a role.
-- $1 cluster_id, $2 tenant_id, $3 user_id, $4 role
UPDATE users SET role = $4 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3

-- count_user_devices --
-- How many devices a user has.
-- $1 cluster_id, $2 tenant_id, $3 user_id
SELECT count(*) FROM nodes WHERE cluster_id = $1 AND tenant_id = $2 AND user_id = $3

-- delete_user --
-- Deletes a user without devices and keys.
-- $1 cluster_id, $2 tenant_id, $3 user_id
DELETE FROM users WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3

-- lock_user_keys --
-- Pre-auth keys of a user, locked until the end of the transaction.
-- $1 cluster_id, $2 tenant_id, $3 user_id
SELECT id, prefix FROM pre_auth_keys
 WHERE cluster_id = $1 AND tenant_id = $2 AND user_id = $3
 ORDER BY id FOR UPDATE

-- forget_keys --
-- Devices forget that these keys let them in.
-- $1 cluster_id, $2 tenant_id, $3 auth_key_ids
UPDATE nodes SET auth_key_id = NULL WHERE cluster_id = $1 AND tenant_id = $2 AND auth_key_id = ANY ($3::bigint[])

-- delete_keys --
-- Deletes pre-auth keys and answers their prefixes.
-- $1 cluster_id, $2 tenant_id, $3 auth_key_ids
DELETE FROM pre_auth_keys WHERE cluster_id = $1 AND tenant_id = $2 AND id = ANY ($3::bigint[])
RETURNING prefix

-- insert_auth_key --
-- A new pre-auth key of a tenant of this cluster; only the hash of its secret is known here.
-- $1 cluster_id, $2 tenant_id, $3 prefix, $4 hash, $5 user_id, $6 reusable, $7 ephemeral, $8 tags, $9 expiration
INSERT INTO pre_auth_keys (tenant_id, cluster_id, prefix, hash, user_id, reusable, ephemeral, tags, expiration)
SELECT t.tenant_id, t.cluster_id, $3, $4, $5, $6, $7, $8, to_timestamp($9)
  FROM tenants t WHERE t.cluster_id = $1 AND t.tenant_id = $2
RETURNING id, tenant_id, prefix, user_id, reusable, ephemeral, tags, used, uses, revoked,
          extract(epoch FROM expiration)::float8, extract(epoch FROM created_at)::float8

-- list_auth_keys --
-- Pre-auth keys of a tenant, without secrets.
-- $1 cluster_id, $2 tenant_id
SELECT id, tenant_id, prefix, user_id, reusable, ephemeral, tags, used, uses, revoked,
       extract(epoch FROM expiration)::float8, extract(epoch FROM created_at)::float8
  FROM pre_auth_keys
 WHERE cluster_id = $1 AND tenant_id = $2
 ORDER BY id

-- lock_auth_key --
-- What an operator sees change of a pre-auth key, locked until the end of the transaction.
-- $1 cluster_id, $2 tenant_id, $3 auth_key_id
SELECT revoked, extract(epoch FROM expiration)::float8, uses FROM pre_auth_keys
 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3
   FOR UPDATE

-- revoke_auth_key --
-- Ends a pre-auth key; devices that joined with it stay.
-- $1 cluster_id, $2 tenant_id, $3 auth_key_id
UPDATE pre_auth_keys SET revoked = true
 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3
RETURNING id, tenant_id, prefix, user_id, reusable, ephemeral, tags, used, uses, revoked,
          extract(epoch FROM expiration)::float8, extract(epoch FROM created_at)::float8

-- write_audit --
-- One line of the audit log, in the transaction of the change itself.
-- $1 cluster_id, $2 tenant_id, $3 actor, $4 action, $5 object, $6 before, $7 after
INSERT INTO audit_log (cluster_id, tenant_id, actor, action, object, before, after)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7::text::jsonb)

-- notify_fleet --
-- Wakes consoles and standbys: something of this cluster was committed.
-- $1 cluster_id
SELECT pg_notify('hs_fleet', $1)

-- list_regions --
-- Relay regions of the whole deployment: every DERP map is their union.
-- (no parameters)
SELECT region_id, cluster_id, region::text FROM derp_regions ORDER BY region_id

-- taken_regions --
-- Region ids that other clusters have.
-- $1 cluster_id
SELECT region_id FROM derp_regions WHERE cluster_id <> $1

-- lock_regions --
-- One process chooses a region id at a time.
-- (no parameters)
SELECT pg_advisory_xact_lock(7407, 0)

-- put_region --
-- The region of this cluster, written where it differs.
-- $1 cluster_id, $2 region_id, $3 region
INSERT INTO derp_regions (cluster_id, region_id, region) VALUES ($1, $2, $3::text::jsonb)
ON CONFLICT (cluster_id) DO UPDATE SET region_id = EXCLUDED.region_id, region = EXCLUDED.region
 WHERE derp_regions.cluster_id = $1
   AND (derp_regions.region_id, derp_regions.region) IS DISTINCT FROM (EXCLUDED.region_id, EXCLUDED.region)
