-- What will end soon is found without reading everything; how many devices a process holds is known at once.

CREATE INDEX nodes_expiring ON nodes (cluster_id, expiry) INCLUDE (tenant_id) WHERE expiry IS NOT NULL;
-- Of a key that was made for a day at most it is known that it ends, and of one for one device that it is used up.
CREATE INDEX pre_auth_keys_expiring ON pre_auth_keys (cluster_id, expiration) INCLUDE (tenant_id)
    WHERE reusable AND NOT revoked AND expiration - created_at > interval '24 hours';

-- NULL where a process serves no devices.
ALTER TABLE instances ADD COLUMN connected integer;
