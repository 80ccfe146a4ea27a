-- register --
-- One registration, decided and written in one round trip.
-- $1 cluster_id, $2 auth, $3 tenant_id, $4 prefix, $5 hash, $6 machine_key, $7 node_key, $8 old_node_key, $9 hostname, $10 label, $11 hostinfo, $12 capver, $13 ephemeral, $14 tags, $15 wish, $16 default_expiry_s, $17 now, $18 announced, $19 permits
SELECT * FROM register($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)

-- update_device --
-- Writes what differs of the durable part; NULL leaves a column alone. A label counts only with a new hostname.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 disco_key, $5 capver, $6 hostname, $7 hostinfo, $8 label
UPDATE nodes
   SET disco_key = COALESCE($4, disco_key), capver = COALESCE($5, capver), hostname = COALESCE($6, hostname),
       host_info = COALESCE($7::text::json, host_info),
       given_name = CASE WHEN $8::text IS NOT NULL AND $6 <> hostname THEN free_name($1, $2, $3, $8)
                         ELSE given_name END
 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3
   AND (COALESCE($4, disco_key), COALESCE($5, capver), COALESCE($6, hostname), COALESCE($7::text, host_info::text))
       IS DISTINCT FROM (disco_key, capver, hostname, host_info::text)

-- expire_device --
-- Sets or clears (NULL) the end of a device's node key.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 at
UPDATE nodes SET expiry = to_timestamp($4) WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3

-- lock_device --
-- Name, tags, owner and end of login of a device, locked until the end of the transaction.
-- $1 cluster_id, $2 tenant_id, $3 device_id
SELECT given_name, tags, user_id, extract(epoch FROM expiry)::float8 FROM nodes
 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3
   FOR NO KEY UPDATE

-- rename_device --
-- Gives a device its name.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 label
UPDATE nodes SET given_name = $4 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3

-- tag_device --
-- Gives a device to its tags; the login of a user's device ends no more.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 tags
UPDATE nodes SET tags = $4, user_id = NULL, expiry = CASE WHEN user_id IS NULL THEN expiry END
 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3

-- move_device --
-- Gives a device to another user.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 user_id
UPDATE nodes SET user_id = $4 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3

-- set_device_routes --
-- Writes what a device announces and adds approvals, where that differs.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 announced, $5 add_approved
UPDATE nodes SET announced_routes = $4, approved_routes = merged_texts(approved_routes, $5)
 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3
   AND (announced_routes, approved_routes) IS DISTINCT FROM ($4::text[], merged_texts(approved_routes, $5))

-- add_approvals --
-- Adds approvals of routes that devices announce: one entry for each device and route.
-- $1 cluster_id, $2 tenant_id, $3 device_ids, $4 routes
UPDATE nodes n SET approved_routes = merged_texts(n.approved_routes, w.routes)
  FROM (SELECT id, array_agg(route) AS routes FROM unnest($3::bigint[], $4::text[]) AS x (id, route) GROUP BY id) w
 WHERE n.cluster_id = $1 AND n.tenant_id = $2 AND n.id = w.id
   AND merged_texts(n.approved_routes, w.routes) <> n.approved_routes
RETURNING n.id

-- lock_device_routes --
-- Routes of a device, locked until the end of the transaction.
-- $1 cluster_id, $2 tenant_id, $3 device_id
SELECT announced_routes, approved_routes FROM nodes
 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3
   FOR NO KEY UPDATE

-- approve_routes --
-- The routes that a device may carry; answers as many of them as its tenant may have.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 routes
UPDATE nodes SET approved_routes = $4 WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3 RETURNING approved_routes

-- logout_device --
-- Ends a device's login now: the row goes if ephemeral, else its key expires.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 node_key, $5 now
WITH gone AS (
    DELETE FROM nodes
     WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3 AND node_key = $4 AND ephemeral RETURNING id
), ended AS (
    UPDATE nodes SET expiry = LEAST(expiry, COALESCE(to_timestamp($5), now()))
     WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3 AND node_key = $4 AND NOT ephemeral RETURNING id
)
SELECT CASE WHEN EXISTS (SELECT 1 FROM gone) THEN 'deleted' WHEN EXISTS (SELECT 1 FROM ended) THEN 'expired'
            ELSE 'unknown' END

-- delete_device --
-- Deletes a device and answers its name for the audit.
-- $1 cluster_id, $2 tenant_id, $3 device_id
DELETE FROM nodes WHERE cluster_id = $1 AND tenant_id = $2 AND id = $3
RETURNING given_name, host(ipv4)

-- limit_lock_wait --
-- Lets this transaction give up soon when a row is locked.
-- $1 lock_timeout
SELECT set_config('lock_timeout', $1, true)

-- flush_state --
-- Writes presence and endpoints of many devices, where they differ, and who came or went. Sorted by the caller.
-- $1 cluster_id, $2 tenant_ids, $3 device_ids, $4 endpoint_lists (comma-joined), $5 home_derps, $6 online_flags, $7 last_seens
WITH v AS MATERIALIZED (
    SELECT tenant_id, node_id, string_to_array(joined, ',') AS endpoints, home_derp, online, to_timestamp(last_seen) AS last_seen
      FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::integer[], $6::boolean[], $7::float8[])
           AS w (tenant_id, node_id, joined, home_derp, online, last_seen)
), flipped AS (
    -- Who went was seen last before it is written that it went.
    INSERT INTO presence (cluster_id, tenant_id, node_id, at, online)
    SELECT $1, v.tenant_id, v.node_id, CASE WHEN v.online THEN now() ELSE COALESCE(v.last_seen, now()) END, v.online
      FROM v JOIN node_state s ON s.tenant_id = v.tenant_id AND s.node_id = v.node_id
     WHERE s.cluster_id = $1 AND s.online <> v.online
)
UPDATE node_state s
   SET endpoints = v.endpoints, home_derp = v.home_derp, online = v.online, last_seen = v.last_seen
  FROM v
 WHERE s.cluster_id = $1 AND s.tenant_id = v.tenant_id AND s.node_id = v.node_id
   AND (s.endpoints, s.home_derp, s.online, s.last_seen) IS DISTINCT FROM (v.endpoints, v.home_derp, v.online, v.last_seen)

-- trim_presence --
-- Forgets who came and went longer ago than an age.
-- $1 cluster_id, $2 max_age_s
DELETE FROM presence WHERE cluster_id = $1 AND at < now() - $2::float8 * interval '1 second'

-- find_tombstone --
-- The newest tombstone of a deleted device with these keys.
-- $1 cluster_id, $2 node_key, $3 machine_key
SELECT tenant_id, id, extract(epoch FROM at)::float8
  FROM deleted_devices
 WHERE cluster_id = $1 AND node_key = $2 AND machine_key = $3
 ORDER BY at DESC LIMIT 1

-- expired_ephemeral --
-- Ephemeral devices that are offline and were last seen before a time.
-- $1 cluster_id, $2 before
SELECT n.tenant_id, n.id
  FROM nodes n JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
 WHERE n.cluster_id = $1 AND n.ephemeral AND NOT s.online
   AND COALESCE(s.last_seen, n.created_at) < to_timestamp($2)
 ORDER BY n.tenant_id, n.id

-- node_key_known --
-- Whether any device of the deployment has this node key (relay admission).
-- $1 node_key
SELECT node_key_known($1)

-- refresh_statistics --
-- Statistics of the device tables, so that kept plans are made anew for the size they have now.
SELECT refresh_statistics()
