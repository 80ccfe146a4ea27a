-- Registration with an auth key: one call, under the caller's own rights (row security and fence apply).

-- The lowest convenient free device name: base, base-1, base-2 ... (doubling, then halving: log n look-ups).
CREATE FUNCTION free_name(c text, t bigint, self bigint, base text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = hs, pg_temp AS $$
DECLARE
    taken bigint := 0;
    free bigint := 1;
    middle bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t AND given_name = base AND id <> self) THEN
        RETURN base;
    END IF;
    WHILE EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t AND id <> self
                     AND given_name = name_with_suffix(base, free)) LOOP
        taken := free;
        free := free * 2;
    END LOOP;
    WHILE free - taken > 1 LOOP
        middle := (free + taken) / 2;
        IF EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t AND id <> self
                      AND given_name = name_with_suffix(base, middle)) THEN
            taken := middle;
        ELSE
            free := middle;
        END IF;
    END LOOP;
    RETURN name_with_suffix(base, free);
END $$;

-- Next free offset into 100.64.0.0/10 and fd7a:115c:a1e0::/48 from `start` on, NULL when all are taken.
-- Left out: 100.100.0.0/24 and 100.100.100.0/24 (service addresses), 100.115.92.0/23 (ChromeOS).
CREATE FUNCTION free_offset(c text, t bigint, start integer) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = hs, pg_temp AS $$
DECLARE
    last CONSTANT integer := 4194302;
    o integer := start;
BEGIN
    FOR tried IN 1 .. last LOOP
        o := CASE WHEN o NOT BETWEEN 1 AND last THEN 1
                  WHEN o BETWEEN 2359296 AND 2359551 THEN 2359552
                  WHEN o BETWEEN 2384896 AND 2385151 THEN 2385152
                  WHEN o BETWEEN 3365888 AND 3366399 THEN 3366400
                  ELSE o END;
        IF NOT EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t AND ipv4 = '100.64.0.0'::inet + o)
           AND NOT EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t
                              AND ipv6 = 'fd7a:115c:a1e0::'::inet + o) THEN
            RETURN o;
        END IF;
        o := o + 1;
    END LOOP;
    RETURN NULL;
END $$;

-- auth: 'none', 'malformed' or 'key' (then key_tenant, key_prefix, key_hash are given).
-- default_expiry_s: seconds until a user's device must log in again, NULL for never.
CREATE FUNCTION register(
    c text, auth text, key_tenant bigint, key_prefix text, key_hash bytea,
    m_key bytea, n_key bytea, old_key bytea, host text, label text, info text, cap integer,
    wants_ephemeral boolean, wants_tags text[], wish double precision, default_expiry_s double precision,
    clock double precision)
RETURNS TABLE (
    r_status text, r_code text, r_fact double precision,
    d_id bigint, d_tenant bigint, d_user bigint, d_machine bytea, d_node bytea, d_disco bytea, d_ipv4 text, d_ipv6 text,
    d_hostname text, d_given_name text, d_tags text[], d_ephemeral boolean, d_expiry double precision,
    d_created double precision, d_auth_key bigint, d_method text, d_capver integer, d_hostinfo bytea,
    d_endpoints text[], d_home_derp integer, d_online boolean, d_last_seen double precision,
    u_id bigint, u_tenant bigint, u_name text, u_display text, u_email text, u_picture text, u_created double precision,
    t_id bigint, t_cluster text, t_name text, t_label text, t_status text, t_home boolean, t_created double precision)
LANGUAGE plpgsql SET search_path = hs, pg_temp AS $$
#variable_conflict use_column
DECLARE
    at timestamptz := COALESCE(to_timestamp(clock), clock_timestamp());
    d nodes;
    k pre_auth_keys;
    place text;
    owner bigint;
    until timestamptz;
    o integer;
    start integer;
    enough boolean;
    quota integer;
BEGIN
    IF current_setting('role') = 'hs_node' THEN
        PERFORM check_epoch();
    END IF;
    -- One machine registers one at a time: what follows sees what its other attempts did.
    PERFORM pg_advisory_xact_lock(7405, hashtext(encode(m_key, 'hex')));

    SELECT * INTO d FROM nodes WHERE cluster_id = c AND node_key = n_key ORDER BY machine_key <> m_key, id LIMIT 1;
    IF FOUND THEN
        IF d.machine_key <> m_key THEN
            r_status := 'refused'; r_code := 'node_key_taken';
            RETURN NEXT; RETURN;
        ELSIF d.expiry <= at THEN
            r_status := 'expired'; r_code := 'node_key_expired'; r_fact := extract(epoch FROM d.expiry);
        ELSE
            r_status := 'refreshed';
            place := lock_tenant(c, d.tenant_id);
            until := d.expiry;
            IF d.user_id IS NOT NULL AND to_timestamp(wish) > at THEN
                until := LEAST(until, to_timestamp(wish));
            END IF;
            UPDATE nodes SET hostname = host, host_info = info::json, capver = cap, expiry = until
             WHERE cluster_id = c AND tenant_id = d.tenant_id AND id = d.id
               AND (hostname, host_info::text, capver) IS DISTINCT FROM (host, info, cap)
                OR cluster_id = c AND tenant_id = d.tenant_id AND id = d.id AND expiry IS DISTINCT FROM until;
        END IF;
    ELSE
        IF auth = 'none' THEN
            r_status := 'needs_login'; r_code := 'needs_login';
            RETURN NEXT; RETURN;
        ELSIF auth <> 'key' THEN
            r_status := 'refused'; r_code := 'auth_key_malformed';
            RETURN NEXT; RETURN;
        END IF;
        place := lock_tenant(c, key_tenant);
        IF place IS NULL THEN
            r_status := 'refused'; r_code := 'auth_key_unknown';
            RETURN NEXT; RETURN;
        ELSIF place = 'elsewhere' THEN
            r_status := 'wrong_cluster'; r_code := 'wrong_cluster';
            RETURN NEXT; RETURN;
        ELSIF place <> 'active' THEN
            r_status := 'refused'; r_code := 'tenant_' || place;
            RETURN NEXT; RETURN;
        END IF;

        SELECT * INTO k FROM pre_auth_keys
         WHERE cluster_id = c AND tenant_id = key_tenant AND prefix = key_prefix AND hash = key_hash
           FOR NO KEY UPDATE;
        r_status := 'refused';
        IF NOT FOUND THEN
            r_code := 'auth_key_unknown';
        ELSIF k.revoked THEN
            r_code := 'auth_key_revoked';
        ELSIF k.expiration <= at THEN
            r_code := 'auth_key_expired'; r_fact := extract(epoch FROM k.expiration);
        ELSIF k.used AND NOT k.reusable THEN
            r_code := 'auth_key_used';
        ELSIF cardinality(wants_tags) > 0 AND cardinality(k.tags) = 0 THEN
            r_code := 'tags_not_permitted';
        END IF;
        IF r_code IS NOT NULL THEN
            RETURN NEXT; RETURN;
        END IF;

        IF cardinality(k.tags) = 0 THEN
            owner := k.user_id;
            until := LEAST(at + default_expiry_s * interval '1 second',
                           CASE WHEN to_timestamp(wish) > at THEN to_timestamp(wish) END);
        END IF;
        SELECT * INTO d FROM nodes
         WHERE cluster_id = c AND tenant_id = key_tenant AND machine_key = m_key
           AND COALESCE(user_id, 0) = COALESCE(owner, 0);
        IF NOT FOUND AND owner IS NULL THEN
            SELECT * INTO d FROM nodes WHERE cluster_id = c AND tenant_id = key_tenant AND machine_key = m_key
             ORDER BY node_key IS DISTINCT FROM old_key, id DESC LIMIT 1;
        END IF;
        IF d.id IS NOT NULL THEN
            r_status := 'rotated';
            UPDATE nodes SET node_key = n_key, user_id = owner, tags = k.tags, expiry = until, auth_key_id = k.id,
                   hostname = host, host_info = info::json, capver = cap
             WHERE cluster_id = c AND tenant_id = d.tenant_id AND id = d.id;
        ELSE
            SELECT n.next_off, n.devices < COALESCE(t.max_devices, 2147483647), t.max_devices INTO start, enough, quota
              FROM tenant_counters n JOIN tenants t ON t.tenant_id = n.tenant_id
             WHERE n.cluster_id = c AND n.tenant_id = key_tenant
               FOR NO KEY UPDATE OF n;
            IF NOT enough THEN
                r_status := 'refused'; r_code := 'quota_devices'; r_fact := quota;
                RETURN NEXT; RETURN;
            END IF;
            o := free_offset(c, key_tenant, start);
            IF o IS NULL THEN
                r_status := 'refused'; r_code := 'addresses_exhausted';
                RETURN NEXT; RETURN;
            END IF;
            r_status := 'created';
            d.tenant_id := key_tenant;
            INSERT INTO nodes (tenant_id, cluster_id, user_id, machine_key, node_key, disco_key, ipv4, ipv6, hostname,
                               given_name, register_method, tags, auth_key_id, ephemeral, expiry, capver, host_info)
            VALUES (key_tenant, c, owner, m_key, n_key, decode(repeat('00', 32), 'hex'), '100.64.0.0'::inet + o,
                    'fd7a:115c:a1e0::'::inet + o, host, free_name(c, key_tenant, 0, label), 'auth_key', k.tags, k.id,
                    k.ephemeral OR wants_ephemeral, until, cap, info::json)
            RETURNING id INTO d.id;
            UPDATE tenant_counters SET next_off = o + 1 WHERE cluster_id = c AND tenant_id = key_tenant;
        END IF;
        UPDATE pre_auth_keys SET used = true, uses = uses + 1
         WHERE cluster_id = c AND tenant_id = key_tenant AND id = k.id;
    END IF;

    RETURN QUERY
    SELECT r_status, r_code, r_fact, n.id, n.tenant_id, n.user_id, n.machine_key, n.node_key, n.disco_key,
           host(n.ipv4), host(n.ipv6), n.hostname, n.given_name, n.tags, n.ephemeral,
           extract(epoch FROM n.expiry)::float8, extract(epoch FROM n.created_at)::float8, n.auth_key_id,
           n.register_method, n.capver, convert_to(n.host_info::text, 'UTF8'),
           s.endpoints, s.home_derp, s.online, extract(epoch FROM s.last_seen)::float8,
           u.id, u.tenant_id, u.name, u.display_name, u.email, u.profile_pic_url,
           extract(epoch FROM u.created_at)::float8,
           t.tenant_id, t.cluster_id, t.name, t.dns_label, t.status, t.is_home,
           extract(epoch FROM t.created_at)::float8
      FROM nodes n
      JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
      JOIN tenants t ON t.tenant_id = n.tenant_id
      LEFT JOIN users u ON u.tenant_id = n.tenant_id AND u.id = n.user_id
     WHERE n.cluster_id = c AND n.tenant_id = d.tenant_id AND n.id = d.id;
END $$;

GRANT EXECUTE ON FUNCTION free_name(text, bigint, bigint, text), free_offset(text, bigint, integer),
    register(text, text, bigint, text, bytea, bytea, bytea, bytea, text, text, text, integer, boolean, text[],
             double precision, double precision, double precision) TO hs_node, hs_admin;
