-- route_machines --
-- The cluster of each machine that is known: where it was sent, else where it was seen last.
-- $1 machine_keys
SELECT machine, cluster FROM route_machines($1)

-- put_route_hint --
-- Sends a machine to a cluster; answers how often that was done within the window.
-- $1 machine_key, $2 target, $3 life_s, $4 window_s
SELECT put_route_hint($1, $2, $3, $4)

-- cluster_of_device --
-- The cluster of a device, or of what is left of a deleted one.
-- $1 node_key, $2 machine_key
SELECT cluster_of_device($1, $2)

-- cluster_of_tenant --
-- The cluster of a tenant.
-- $1 tenant_id
SELECT cluster_of_tenant($1)

-- cluster_ids --
-- All clusters of the deployment.
-- (no parameters)
SELECT cluster_ids()

-- cluster_owner --
-- Who owns a cluster, under which epoch, and where entries reach it.
-- $1 cluster_id
SELECT held_by, held_epoch, addr FROM cluster_owner($1)

-- put_instance --
-- This process says that it is alive, and where it is reached.
-- $1 cluster_id, $2 instance_id, $3 kind, $4 addr, $5 version, $6 internal_addr, $7 advertise_addr, $8 login_url, $9 connected
INSERT INTO instances (cluster_id, instance_id, kind, addr, version, internal_addr, advertise_addr, login_url,
                       connected)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (instance_id) DO UPDATE
   SET addr = EXCLUDED.addr, version = EXCLUDED.version, heartbeat_at = now(),
       internal_addr = EXCLUDED.internal_addr, advertise_addr = EXCLUDED.advertise_addr,
       login_url = EXCLUDED.login_url, connected = EXCLUDED.connected
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
