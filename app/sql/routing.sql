-- route_machine --
-- Clusters where a machine has devices, most recently seen first.
-- $1 machine_key
SELECT route_machine($1)

-- cluster_owner --
-- Who owns a cluster, under which epoch, and where entries reach it.
-- $1 cluster_id
SELECT held_by, held_epoch, addr FROM cluster_owner($1)

-- put_instance --
-- This process says that it is alive, and where it is reached.
-- $1 cluster_id, $2 instance_id, $3 kind, $4 addr, $5 version, $6 internal_addr, $7 advertise_addr, $8 login_url
INSERT INTO instances (cluster_id, instance_id, kind, addr, version, internal_addr, advertise_addr, login_url)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (instance_id) DO UPDATE
   SET addr = EXCLUDED.addr, version = EXCLUDED.version, heartbeat_at = now(),
       internal_addr = EXCLUDED.internal_addr, advertise_addr = EXCLUDED.advertise_addr,
       login_url = EXCLUDED.login_url
 WHERE instances.cluster_id = $1

-- delete_instance --
-- This process is gone.
-- $1 cluster_id, $2 instance_id
DELETE FROM instances WHERE cluster_id = $1 AND instance_id = $2

-- advertised_instances --
-- Living processes of a cluster that clients may dial by address, longest running first.
-- $1 cluster_id, $2 silent_s
SELECT instance_id, advertise_addr FROM instances
 WHERE cluster_id = $1 AND advertise_addr <> '' AND heartbeat_at > now() - $2 * interval '1 second'
 ORDER BY started_at, instance_id

-- load_states --
-- Presence and endpoints of all devices of a cluster, in no order.
-- $1 cluster_id
SELECT tenant_id, node_id, endpoints, home_derp, online, extract(epoch FROM last_seen)::float8
  FROM node_state
 WHERE cluster_id = $1
