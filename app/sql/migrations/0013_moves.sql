-- Where machines belong, told to every entry; hints for those that came to the wrong owner; tenants that move.

ALTER TABLE tenants ADD COLUMN moved_at timestamptz;

-- Written by an owner that read, inside a tunnel, a key of another cluster. Of a machine, not of a tenant.
CREATE TABLE route_hints (
    machine_key bytea PRIMARY KEY CHECK (octet_length(machine_key) = 32),
    target      text NOT NULL,
    expires_at  timestamptz NOT NULL,
    -- Connections closed for a hint since a time: who is sent to and fro is told so in the end.
    counted_at  timestamptz NOT NULL,
    closes      integer NOT NULL
);
CREATE INDEX route_hints_expires ON route_hints (expires_at);
ALTER TABLE route_hints ENABLE ROW LEVEL SECURITY;
ALTER TABLE route_hints FORCE ROW LEVEL SECURITY;
CREATE POLICY wide ON route_hints TO hs_owner, hs_acs USING (true) WITH CHECK (true);
GRANT SELECT ON route_hints TO hs_acs;

-- Sends a machine to a cluster; answers how often that was done within the window. Strangers can make owners
-- call this, so each call also takes away some that are over.
CREATE FUNCTION put_route_hint(k bytea, c text, life_s double precision, window_s double precision) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE
    at timestamptz := clock_timestamp();
    n integer;
BEGIN
    DELETE FROM route_hints WHERE machine_key IN (
        SELECT machine_key FROM route_hints WHERE expires_at < at LIMIT 4 FOR UPDATE SKIP LOCKED);
    INSERT INTO route_hints AS h (machine_key, target, expires_at, counted_at, closes)
    VALUES (k, c, at + life_s * interval '1 second', at, 1)
    ON CONFLICT (machine_key) DO UPDATE
       SET target = c, expires_at = EXCLUDED.expires_at,
           counted_at = CASE WHEN h.counted_at < at - window_s * interval '1 second' THEN at ELSE h.counted_at END,
           closes = CASE WHEN h.counted_at < at - window_s * interval '1 second' THEN 1 ELSE h.closes + 1 END
    RETURNING closes INTO n;
    PERFORM pg_notify('hs_routing', 'machine:' || encode(k, 'hex'));
    RETURN n;
END $$;

-- Routing facts only: for each machine that is known, the cluster it was sent to, else the one where it was
-- seen last.
CREATE FUNCTION route_machines(keys bytea[]) RETURNS TABLE (machine bytea, cluster text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT k.key, COALESCE(h.target, d.cluster_id)
      FROM unnest(keys) AS k (key)
      LEFT JOIN route_hints h ON h.machine_key = k.key AND h.expires_at > clock_timestamp()
      LEFT JOIN LATERAL (
           SELECT n.cluster_id
             FROM nodes n JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
            WHERE n.machine_key = k.key
            ORDER BY s.online DESC, COALESCE(s.last_seen, n.created_at) DESC, n.id LIMIT 1) d ON true
     WHERE h.target IS NOT NULL OR d.cluster_id IS NOT NULL
$$;
DROP FUNCTION route_machine(bytea);

-- The cluster of a device, or of what is left of a deleted one.
CREATE FUNCTION cluster_of_device(n_key bytea, m_key bytea) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT f.cluster_id FROM (
        SELECT cluster_id, 0 AS gone, created_at AS at FROM nodes WHERE node_key = n_key AND machine_key = m_key
        UNION ALL
        SELECT cluster_id, 1, at FROM deleted_devices WHERE node_key = n_key AND machine_key = m_key
    ) f ORDER BY f.gone, f.at DESC LIMIT 1
$$;

CREATE FUNCTION cluster_of_tenant(t bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT cluster_id FROM tenants WHERE tenant_id = t
$$;

CREATE FUNCTION cluster_ids() RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT cluster_id FROM clusters ORDER BY cluster_id
$$;

-- One tenant to another cluster, with all that is its: foreign keys carry the change to every scoped table, and
-- triggers tell both owners. Answers 'moved', or what stands in the way; then nothing has happened.
-- reserve: devices that a tenant without a limit counts for (app/placement.py).
CREATE FUNCTION move_tenant(t bigint, src text, dst text, reserve integer, who text, why text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE
    r tenants;
    k clusters;
    need bigint;
    has record;
BEGIN
    -- The decision on where tenants go (app/sql/tenants.sql lock_placement), then the tenant, which its writers
    -- share: an advisory lock, because takers of a row lock overtake who waits for all of it.
    PERFORM pg_advisory_xact_lock(7403, 0);
    PERFORM pg_advisory_xact_lock((7404::bigint << 40) + t);
    SELECT * INTO r FROM tenants WHERE tenant_id = t FOR UPDATE;
    IF NOT FOUND OR r.cluster_id <> src THEN
        RETURN 'not_here';
    ELSIF r.is_home THEN
        RETURN 'home_tenant';
    END IF;
    SELECT * INTO k FROM clusters WHERE cluster_id = dst FOR SHARE;
    IF NOT FOUND THEN
        RETURN 'target_unknown';
    ELSIF src = dst THEN
        RETURN 'target_same';
    ELSIF k.state <> 'active' THEN
        RETURN 'target_not_active';
    END IF;
    SELECT GREATEST(n.devices, COALESCE(r.max_devices, reserve)) INTO need FROM tenant_counters n WHERE n.tenant_id = t;
    SELECT count(*) FILTER (WHERE NOT x.is_home) AS tenants,
           COALESCE(sum(GREATEST(n.devices, CASE WHEN x.is_home THEN n.devices
                                                 ELSE COALESCE(x.max_devices, reserve) END)), 0) AS devices
      INTO has FROM tenants x JOIN tenant_counters n ON n.tenant_id = x.tenant_id
     WHERE x.cluster_id = dst AND x.status <> 'deleted';
    IF has.tenants >= k.max_tenants OR has.devices + need > k.max_devices THEN
        RETURN 'target_full';
    END IF;
    UPDATE tenants SET cluster_id = dst, moved_at = clock_timestamp(), version = version + 1 WHERE tenant_id = t;
    -- Nobody is sent to where it was.
    DELETE FROM route_hints WHERE machine_key IN (SELECT machine_key FROM nodes WHERE tenant_id = t);
    INSERT INTO audit_log (cluster_id, tenant_id, actor, action, object, before, after)
    VALUES (dst, t, who, 'tenant_move', 'tenant:' || t, jsonb_build_object('cluster', src),
            jsonb_build_object('cluster', dst, 'why', why));
    PERFORM pg_notify('hs_routing', 'tenant:' || t);
    RETURN 'moved';
END $$;

REVOKE EXECUTE ON FUNCTION put_route_hint(bytea, text, double precision, double precision), route_machines(bytea[]),
    cluster_of_device(bytea, bytea), cluster_of_tenant(bigint), cluster_ids(),
    move_tenant(bigint, text, text, integer, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION put_route_hint(bytea, text, double precision, double precision), route_machines(bytea[]),
    cluster_of_device(bytea, bytea), cluster_of_tenant(bigint), cluster_ids() TO hs_node, hs_admin, hs_acs;
GRANT EXECUTE ON FUNCTION move_tenant(bigint, text, text, integer, text, text) TO hs_acs;
