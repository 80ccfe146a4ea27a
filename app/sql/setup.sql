-- scope_check --
-- Rows and tables that this session can see without a scope: must be empty. Runs with hs.cluster_id = ''.
-- (no parameters)
SELECT c.relname AS leak
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'cluster_id'
 WHERE c.relnamespace = 'hs'::regnamespace AND c.relkind = 'r' AND NOT row_security_active(c.oid)
UNION ALL SELECT 'clusters' WHERE EXISTS (SELECT 1 FROM clusters)
UNION ALL SELECT 'tenants' WHERE EXISTS (SELECT 1 FROM tenants)
UNION ALL SELECT 'users' WHERE EXISTS (SELECT 1 FROM users)
UNION ALL SELECT 'pre_auth_keys' WHERE EXISTS (SELECT 1 FROM pre_auth_keys)
UNION ALL SELECT 'nodes' WHERE EXISTS (SELECT 1 FROM nodes)

-- forget_scope --
-- Takes the cluster away from this transaction.
-- (no parameters)
SELECT set_config('hs.cluster_id', '', true)

-- ensure_cluster --
-- Creates the cluster and its home tenant if the id is new; its state then.
-- $1 cluster_id, $2 region, $3 label
SELECT ensure_cluster($1, $2, $3)

-- cluster_exists --
-- Whether the cluster of this session exists.
-- $1 cluster_id
SELECT EXISTS (SELECT 1 FROM clusters WHERE cluster_id = $1)

-- create_tenant --
-- A tenant that is not a home tenant.
-- $1 cluster_id, $2 name, $3 label, $4 max_devices, $5 max_users, $6 max_keys
SELECT create_tenant($1, $2, $3, false, $4, $5, $6)

-- read_secret --
-- A sealed secret of the deployment.
-- $1 name
SELECT value FROM deployment WHERE key = $1

-- put_secret --
-- Keeps the first value anybody stores.
-- $1 name, $2 value
INSERT INTO deployment (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING

-- generation --
-- System identifier and time line.
-- (no parameters)
SELECT generation()

-- lease_state --
-- Who holds a lease, for how long still, and whether its database connection lives.
-- $1 lease
SELECT held_by, held_epoch, left_s, alive FROM lease_state($1)

-- lease_acquire --
-- One attempt to get a lease; the new epoch or NULL.
-- $1 lease, $2 holder, $3 ttl_s, $4 early
SELECT lease_acquire($1, $2, $3, $4)

-- lease_renew --
-- Prolongs a lease this holder still has.
-- $1 lease, $2 holder, $3 epoch, $4 ttl_s
SELECT lease_renew($1, $2, $3, $4)

-- lease_release --
-- Gives a lease back.
-- $1 lease, $2 holder, $3 epoch
SELECT lease_release($1, $2, $3)

-- heartbeat --
-- Proves that a connection still answers.
-- (no parameters)
SELECT 1
