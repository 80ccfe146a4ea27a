-- open_login --
-- The id of the live login of these keys, or of a new one; what is past its time or above the bounds goes.
-- $1 fresh_id, $2 cluster_id, $3 machine_key, $4 node_key, $5 hostname, $6 os, $7 version, $8 capver, $9 ephemeral, $10 address, $11 network, $12 life_s, $13 per_network, $14 in_all, $15 now
SELECT open_login($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

-- read_logins --
-- Logins of the deployment by id, all of them when no ids are given.
-- $1 login_ids or NULL, $2 now
SELECT * FROM read_logins($1, $2)

-- decide_login --
-- Approves or denies a login that nobody decided yet: 'decided', else what stands in the way.
-- $1 cluster_id, $2 login_id, $3 decision, $4 tenant_id, $5 user_id, $6 life_s, $7 now
SELECT decide_login($1, $2, $3, $4, $5, $6, $7)

-- trim_logins --
-- Forgets logins whose time is over; answers how many.
-- $1 now
SELECT trim_logins($1)
