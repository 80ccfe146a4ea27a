-- Change capture: whoever writes, a committed change that can alter a netmap leaves rows in `changes`.
-- Scope keys: device:<id> user:<id> tag:<name> policy dns derp tenant; above 64 keys one row `tenant`.

CREATE FUNCTION capture(k text, c text, t bigint, keys text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    INSERT INTO changes (cluster_id, tenant_id, kind, scope_key, origin)
    SELECT c, t, k, s,
           CASE WHEN current_setting('hs.cluster_id', true) = c
                THEN COALESCE(current_setting('hs.origin', true), '') ELSE '' END
      FROM unnest(CASE WHEN cardinality(keys) <= 64 THEN keys ELSE ARRAY['tenant'] END) s
$$;

-- Plans of these statements are cached on the first, one-row call: EXCEPT hashes at any size, a join of
-- the two transition tables would be kept as a nested loop (20 s for 10k rows).
CREATE FUNCTION tg_nodes_u() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN
        SELECT d.tenant_id, array_agg(DISTINCT d.key ORDER BY d.key) AS keys,
               (SELECT cluster_id FROM tenants t WHERE t.tenant_id = d.tenant_id) AS cluster_id
        FROM (
            SELECT x.tenant_id, 'device:' || x.id AS key FROM (
                SELECT tenant_id, id, user_id, machine_key, node_key, disco_key, ipv4, ipv6, hostname, given_name,
                       register_method, tags, auth_key_id, ephemeral, expiry, capver, host_info::text, created_at FROM n
                EXCEPT
                SELECT tenant_id, id, user_id, machine_key, node_key, disco_key, ipv4, ipv6, hostname, given_name,
                       register_method, tags, auth_key_id, ephemeral, expiry, capver, host_info::text, created_at FROM o
            ) x
            UNION ALL
            SELECT x.tenant_id, x.tag FROM (
                SELECT tenant_id, id, unnest(tags) AS tag FROM n EXCEPT SELECT tenant_id, id, unnest(tags) FROM o) x
            UNION ALL
            SELECT x.tenant_id, x.tag FROM (
                SELECT tenant_id, id, unnest(tags) AS tag FROM o EXCEPT SELECT tenant_id, id, unnest(tags) FROM n) x
        ) d
        GROUP BY d.tenant_id ORDER BY d.tenant_id
    LOOP
        PERFORM capture('node', r.cluster_id, r.tenant_id, r.keys);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_nodes_i() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    -- Whoever inserts a device: without this row nobody would read it.
    INSERT INTO node_state (tenant_id, cluster_id, node_id) SELECT tenant_id, cluster_id, id FROM n
    ON CONFLICT DO NOTHING;
    FOR r IN SELECT tenant_id, cluster_id, count(*) AS rows, array_agg('device:' || id ORDER BY id) AS keys
               FROM n GROUP BY tenant_id, cluster_id ORDER BY tenant_id
    LOOP
        UPDATE tenant_counters SET devices = devices + r.rows WHERE tenant_id = r.tenant_id;
        PERFORM capture('node', r.cluster_id, r.tenant_id, r.keys);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_nodes_d() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    INSERT INTO deleted_devices (tenant_id, cluster_id, id, node_key, machine_key)
    SELECT tenant_id, cluster_id, id, node_key, machine_key FROM o;
    FOR r IN SELECT tenant_id, cluster_id, count(*) AS rows, array_agg('device:' || id ORDER BY id) AS keys
               FROM o GROUP BY tenant_id, cluster_id ORDER BY tenant_id
    LOOP
        UPDATE tenant_counters SET devices = devices - r.rows WHERE tenant_id = r.tenant_id;
        PERFORM capture('node-delete', r.cluster_id, r.tenant_id, r.keys);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_users_u() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN
        SELECT d.tenant_id, array_agg('user:' || d.id ORDER BY d.id) AS keys,
               (SELECT cluster_id FROM tenants t WHERE t.tenant_id = d.tenant_id) AS cluster_id
        FROM (SELECT tenant_id, id, name, display_name, email, profile_pic_url, created_at FROM n
              EXCEPT
              SELECT tenant_id, id, name, display_name, email, profile_pic_url, created_at FROM o) d
        GROUP BY d.tenant_id ORDER BY d.tenant_id
    LOOP
        PERFORM capture('user', r.cluster_id, r.tenant_id, r.keys);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_users_i() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN SELECT tenant_id, cluster_id, count(*) AS rows, array_agg('user:' || id ORDER BY id) AS keys
               FROM n GROUP BY tenant_id, cluster_id ORDER BY tenant_id
    LOOP
        UPDATE tenant_counters SET users = users + r.rows WHERE tenant_id = r.tenant_id;
        PERFORM capture('user', r.cluster_id, r.tenant_id, r.keys);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_users_d() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN SELECT tenant_id, cluster_id, count(*) AS rows, array_agg('user:' || id ORDER BY id) AS keys
               FROM o GROUP BY tenant_id, cluster_id ORDER BY tenant_id
    LOOP
        UPDATE tenant_counters SET users = users - r.rows WHERE tenant_id = r.tenant_id;
        PERFORM capture('user', r.cluster_id, r.tenant_id, r.keys);
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_keys_i() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN SELECT tenant_id, count(*) AS rows FROM n GROUP BY tenant_id ORDER BY tenant_id LOOP
        UPDATE tenant_counters SET keys = keys + r.rows WHERE tenant_id = r.tenant_id;
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_keys_d() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN SELECT tenant_id, count(*) AS rows FROM o GROUP BY tenant_id ORDER BY tenant_id LOOP
        UPDATE tenant_counters SET keys = keys - r.rows WHERE tenant_id = r.tenant_id;
    END LOOP;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_tenants() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tenant_counters (tenant_id, cluster_id) VALUES (NEW.tenant_id, NEW.cluster_id);
        PERFORM capture('tenant', NEW.cluster_id, NEW.tenant_id, ARRAY['tenant']);
    ELSIF NEW.cluster_id <> OLD.cluster_id THEN
        PERFORM capture('tenant-out', OLD.cluster_id, NEW.tenant_id, ARRAY['tenant']);
        PERFORM capture('tenant-in', NEW.cluster_id, NEW.tenant_id, ARRAY['tenant']);
    ELSIF (NEW.name, NEW.dns_label, NEW.status) IS DISTINCT FROM (OLD.name, OLD.dns_label, OLD.status) THEN
        PERFORM capture('tenant', NEW.cluster_id, NEW.tenant_id, ARRAY['tenant']);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION tg_derp() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW IS NOT DISTINCT FROM OLD THEN
        RETURN NULL;
    END IF;
    PERFORM capture('derp', c.cluster_id, NULL, ARRAY['derp']) FROM clusters c ORDER BY c.cluster_id;
    RETURN NULL;
END $$;

-- At most one notification per cluster and transaction, and none for what the owner itself wrote: a
-- transaction that notifies cannot share its WAL flush with any other of the server.
CREATE FUNCTION tg_wake() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE
    r record;
    woken text := COALESCE(current_setting('hs.woken', true), '');
BEGIN
    FOR r IN SELECT DISTINCT ON (cluster_id) cluster_id, scope_key FROM n WHERE origin = '' ORDER BY cluster_id, id
    LOOP
        IF position(',' || r.cluster_id || ',' IN woken) = 0 THEN
            PERFORM pg_notify('netmap_dirty_' || r.cluster_id, r.scope_key);
            woken := woken || ',' || r.cluster_id || ',';
            PERFORM set_config('hs.woken', woken, true);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE TRIGGER z_i AFTER INSERT ON nodes REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION tg_nodes_i();
CREATE TRIGGER z_u AFTER UPDATE ON nodes REFERENCING OLD TABLE AS o NEW TABLE AS n
    FOR EACH STATEMENT EXECUTE FUNCTION tg_nodes_u();
CREATE TRIGGER z_d AFTER DELETE ON nodes REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION tg_nodes_d();
CREATE TRIGGER z_i AFTER INSERT ON users REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION tg_users_i();
CREATE TRIGGER z_u AFTER UPDATE ON users REFERENCING OLD TABLE AS o NEW TABLE AS n
    FOR EACH STATEMENT EXECUTE FUNCTION tg_users_u();
CREATE TRIGGER z_d AFTER DELETE ON users REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION tg_users_d();
CREATE TRIGGER z_i AFTER INSERT ON pre_auth_keys REFERENCING NEW TABLE AS n
    FOR EACH STATEMENT EXECUTE FUNCTION tg_keys_i();
CREATE TRIGGER z_d AFTER DELETE ON pre_auth_keys REFERENCING OLD TABLE AS o
    FOR EACH STATEMENT EXECUTE FUNCTION tg_keys_d();
CREATE TRIGGER z_iu AFTER INSERT OR UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION tg_tenants();
CREATE TRIGGER z_iud AFTER INSERT OR UPDATE OR DELETE ON derp_regions FOR EACH ROW EXECUTE FUNCTION tg_derp();
CREATE TRIGGER y_wake AFTER INSERT ON changes REFERENCING NEW TABLE AS n
    FOR EACH STATEMENT EXECUTE FUNCTION tg_wake();
