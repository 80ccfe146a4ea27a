-- load_policies --
-- The policy in force of every tenant of a cluster that has one; of all tenants when no ids are given.
-- $1 cluster_id, $2 tenant_ids or NULL
SELECT DISTINCT ON (tenant_id) tenant_id, version, text, hash, author, note, extract(epoch FROM created_at)::float8
  FROM policies
 WHERE cluster_id = $1 AND ($2::bigint[] IS NULL OR tenant_id = ANY ($2::bigint[]))
 ORDER BY tenant_id, version DESC

-- policy_history --
-- The newest versions of a tenant's policy, newest first.
-- $1 cluster_id, $2 tenant_id, $3 limit
SELECT tenant_id, version, text, hash, author, note, extract(epoch FROM created_at)::float8
  FROM policies
 WHERE cluster_id = $1 AND tenant_id = $2
 ORDER BY version DESC LIMIT $3

-- policy_version --
-- One version of a tenant's policy.
-- $1 cluster_id, $2 tenant_id, $3 policy_version
SELECT tenant_id, version, text, hash, author, note, extract(epoch FROM created_at)::float8
  FROM policies
 WHERE cluster_id = $1 AND tenant_id = $2 AND version = $3

-- current_policy_version --
-- The number and hash of the policy in force.
-- $1 cluster_id, $2 tenant_id
SELECT version, hash FROM policies WHERE cluster_id = $1 AND tenant_id = $2 ORDER BY version DESC LIMIT 1

-- insert_policy --
-- One more version of the policy of a tenant of this cluster.
-- $1 cluster_id, $2 tenant_id, $3 policy_version, $4 policy_text, $5 policy_hash, $6 author, $7 note
INSERT INTO policies (tenant_id, cluster_id, version, text, hash, author, note)
SELECT t.tenant_id, t.cluster_id, $3, $4, $5, $6, $7 FROM tenants t WHERE t.cluster_id = $1 AND t.tenant_id = $2
RETURNING tenant_id, version, text, hash, author, note, extract(epoch FROM created_at)::float8
