-- Functions that look across clusters (SECURITY DEFINER) and therefore check their caller themselves.

CREATE FUNCTION refuse_other_cluster(c text) RETURNS void
LANGUAGE plpgsql SET search_path = hs, pg_temp AS $$
BEGIN
    IF current_setting('role') IN ('hs_node', 'hs_admin')
       AND c IS DISTINCT FROM current_setting('hs.cluster_id', true) THEN
        RAISE EXCEPTION 'this session belongs to cluster %, not %', current_setting('hs.cluster_id', true), c
            USING ERRCODE = 'HS403';
    END IF;
END $$;

-- System identifier and time line: another value means another history of commits.
CREATE FUNCTION generation() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT (SELECT system_identifier FROM pg_control_system()) || '/'
        || left(CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE pg_walfile_name(pg_current_wal_lsn()) END, 8)
$$;

-- First call of every transaction that writes rows of one tenant; a move takes the lock exclusively.
-- Answers the tenant's status, 'elsewhere' when it lives in another cluster, NULL when nobody knows it.
CREATE FUNCTION lock_tenant(c text, t bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE answer text;
BEGIN
    PERFORM refuse_other_cluster(c);
    PERFORM pg_advisory_xact_lock_shared((7404::bigint << 40) + t);
    SELECT CASE WHEN cluster_id = c THEN status ELSE 'elsewhere' END INTO answer FROM tenants WHERE tenant_id = t;
    RETURN answer;
END $$;

CREATE FUNCTION name_with_suffix(base text, n bigint) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = hs, pg_temp AS $$
    SELECT rtrim(left(base, 62 - length(n::text)), '-') || '-' || n
$$;

CREATE FUNCTION create_tenant(c text, tenant_name text, label text, home boolean,
                              devices_max integer, users_max integer, keys_max integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE
    t bigint;
    free text := label;
    n bigint := 0;
BEGIN
    PERFORM refuse_other_cluster(c);
    PERFORM pg_advisory_xact_lock(7402, 0);
    IF home AND NOT EXISTS (SELECT 1 FROM tenants) THEN
        free := '';
    ELSE
        WHILE EXISTS (SELECT 1 FROM tenants WHERE dns_label = free) LOOP
            n := n + 1;
            free := name_with_suffix(label, n);
        END LOOP;
    END IF;
    INSERT INTO tenants (cluster_id, name, dns_label, is_home, max_devices, max_users, max_keys)
    VALUES (c, tenant_name, free, home, devices_max, users_max, keys_max) RETURNING tenant_id INTO t;
    RETURN t;
END $$;

-- True when the cluster is new. Its home tenant bears its name.
CREATE FUNCTION ensure_cluster(c text, region text, label text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM refuse_other_cluster(c);
    PERFORM pg_advisory_xact_lock(7402, 0);
    INSERT INTO clusters (cluster_id, region) VALUES (c, COALESCE(region, '')) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM create_tenant(c, c, label, true, NULL, NULL, NULL);
        RETURN true;
    END IF;
    RETURN false;
END $$;

CREATE FUNCTION node_key_known(k bytea) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM nodes WHERE node_key = k)
$$;

-- Routing facts only: the clusters where this machine has devices, most recently seen first.
CREATE FUNCTION route_machine(k bytea) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT n.cluster_id FROM nodes n JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
     WHERE n.machine_key = k
     GROUP BY n.cluster_id
     ORDER BY max(COALESCE(s.last_seen, n.created_at)) DESC, n.cluster_id
$$;

CREATE FUNCTION trim_changes(c text, max_age_s double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE gone bigint;
BEGIN
    PERFORM refuse_other_cluster(c);
    DELETE FROM changes WHERE cluster_id = c AND at < clock_timestamp() - max_age_s * interval '1 second';
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;

CREATE FUNCTION trim_tombstones(c text, max_age_s double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE gone bigint;
BEGIN
    PERFORM refuse_other_cluster(c);
    DELETE FROM deleted_devices WHERE cluster_id = c AND at < clock_timestamp() - max_age_s * interval '1 second';
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;

-- Leases. A node session may touch the lease of its own cluster only.

CREATE FUNCTION refuse_other_lease(lease text) RETURNS void
LANGUAGE plpgsql SET search_path = hs, pg_temp AS $$
BEGIN
    IF current_setting('role') <> 'hs_acs'
       AND lease IS DISTINCT FROM 'cluster:' || current_setting('hs.cluster_id', true) THEN
        RAISE EXCEPTION 'this session may not touch lease %', lease USING ERRCODE = 'HS403';
    END IF;
END $$;

-- backend_start of other roles reads NULL without pg_read_all_stats: then a pid that exists counts as alive,
-- and a takeover waits for the end of the TTL.
CREATE FUNCTION backend_alive(p integer, started timestamptz) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM pg_stat_activity
                    WHERE pid = p AND (started IS NULL OR backend_start IS NULL OR backend_start = started))
$$;

CREATE FUNCTION lease_state(lease text)
RETURNS TABLE (held_by text, held_epoch bigint, left_s double precision, alive boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM refuse_other_lease(lease);
    RETURN QUERY SELECT holder, epoch,
            CASE WHEN isfinite(expires_at) THEN extract(epoch FROM expires_at - clock_timestamp())::float8 ELSE 0 END,
            backend_alive(pid, backend_start)
       FROM leases WHERE name = lease;
END $$;

CREATE FUNCTION lease_acquire(lease text, who text, ttl_s double precision, early boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE l leases;
BEGIN
    PERFORM refuse_other_lease(lease);
    INSERT INTO leases (name) VALUES (lease) ON CONFLICT DO NOTHING;
    SELECT * INTO l FROM leases WHERE name = lease;
    IF l.holder NOT IN ('', who) AND l.expires_at > clock_timestamp()
       AND NOT (early AND NOT backend_alive(l.pid, l.backend_start)) THEN
        RETURN NULL;
    END IF;
    UPDATE leases
       SET holder = who, epoch = epoch + 1, renewed_at = clock_timestamp(), pid = pg_backend_pid(),
           expires_at = clock_timestamp() + ttl_s * interval '1 second',
           backend_start = (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
     WHERE name = lease AND epoch = l.epoch;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- Barrier: writers of the old epoch finish or fail before the new epoch counts.
    IF lease LIKE 'cluster:%' THEN
        PERFORM pg_advisory_xact_lock(7401, hashtext(substr(lease, 9)));
    END IF;
    PERFORM pg_notify('hs_routing', lease);
    RETURN l.epoch + 1;
END $$;

CREATE FUNCTION lease_renew(lease text, who text, held bigint, ttl_s double precision) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM refuse_other_lease(lease);
    UPDATE leases
       SET renewed_at = clock_timestamp(), expires_at = clock_timestamp() + ttl_s * interval '1 second',
           pid = pg_backend_pid(),
           backend_start = (SELECT a.backend_start FROM pg_stat_activity a WHERE a.pid = pg_backend_pid())
     WHERE name = lease AND holder = who AND epoch = held;
    RETURN FOUND;
END $$;

CREATE FUNCTION lease_release(lease text, who text, held bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM refuse_other_lease(lease);
    -- The next epoch, so that nothing of this holder can be written any more.
    UPDATE leases SET holder = '', epoch = epoch + 1, expires_at = '-infinity', pid = NULL, backend_start = NULL
     WHERE name = lease AND holder = who AND epoch = held;
    IF FOUND THEN
        PERFORM pg_notify('hs_routing', lease);
        RETURN true;
    END IF;
    RETURN false;
END $$;

-- Statements keep the plan they got at first. On a fresh database that was made for empty tables, and any
-- index looks as good as the right one: each registration would read the whole fleet until autovacuum comes by.
CREATE FUNCTION refresh_statistics() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    ANALYZE nodes, node_state, users, tenants, pre_auth_keys, tenant_counters;
END $$;

GRANT EXECUTE ON FUNCTION refresh_statistics(), generation(), lock_tenant(text, bigint), name_with_suffix(text, bigint),
    ensure_cluster(text, text, text), node_key_known(bytea), route_machine(bytea),
    trim_changes(text, double precision), trim_tombstones(text, double precision)
    TO hs_node, hs_admin, hs_acs;
GRANT EXECUTE ON FUNCTION create_tenant(text, text, text, boolean, integer, integer, integer) TO hs_admin, hs_acs;
GRANT EXECUTE ON FUNCTION lease_state(text), lease_acquire(text, text, double precision, boolean),
    lease_renew(text, text, bigint, double precision), lease_release(text, text, bigint) TO hs_node, hs_acs;
GRANT EXECUTE ON FUNCTION generation() TO hs_console;
