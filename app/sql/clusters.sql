-- list_clusters --
-- Clusters of the deployment with their owners and counts; one of them when an id is given.
-- $1 cluster_id or NULL
SELECT c.cluster_id, c.state, c.region, extract(epoch FROM c.created_at)::float8,
       k.tenants, k.users, k.devices, s.connected,
       CASE WHEN l.expires_at > now() THEN NULLIF(l.holder, '') END, COALESCE(l.epoch, 0),
       CASE WHEN l.holder <> '' THEN extract(epoch FROM now() - l.renewed_at)::float8 END
  FROM clusters c
  LEFT JOIN leases l ON l.name = 'cluster:' || c.cluster_id
 CROSS JOIN LATERAL (
       SELECT count(*) AS tenants, COALESCE(sum(n.users), 0)::bigint AS users,
              COALESCE(sum(n.devices), 0)::bigint AS devices
         FROM tenant_counters n WHERE n.cluster_id = c.cluster_id) k
 CROSS JOIN LATERAL (
       SELECT count(*) AS connected FROM node_state h WHERE h.cluster_id = c.cluster_id AND h.online) s
 WHERE c.cluster_id = $1 OR $1::text IS NULL
 ORDER BY c.cluster_id

-- list_instances --
-- Processes of a cluster, and how many seconds ago each was heard.
-- $1 cluster_id
SELECT instance_id, version, extract(epoch FROM now() - heartbeat_at)::float8
  FROM instances WHERE cluster_id = $1
 ORDER BY instance_id
