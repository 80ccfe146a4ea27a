-- Logins without an auth key, until a person approves them. Rows belong to no cluster and no tenant: any
-- process may hold the waiting request, and any cluster's operator may take the device in. All access but
-- reading them for the console goes through the functions below, which check their caller.

CREATE TABLE pending_logins (
    id          text PRIMARY KEY CONSTRAINT pending_logins_id CHECK (id ~ '^[0-9a-f]{24}$'),
    seen_in     text NOT NULL,
    machine_key bytea NOT NULL CHECK (octet_length(machine_key) = 32),
    node_key    bytea NOT NULL CHECK (octet_length(node_key) = 32),
    hostname    text NOT NULL,
    os          text NOT NULL,
    version     text NOT NULL,
    capver      integer NOT NULL,
    ephemeral   boolean NOT NULL,
    address     text NOT NULL,
    -- what the bound per address counts: the address, or its /64
    network     text NOT NULL,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'denied')),
    tenant_id   bigint,
    user_id     bigint,
    -- the device that used the approval up
    device_id   bigint,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    CONSTRAINT pending_logins_keys UNIQUE (machine_key, node_key),
    CONSTRAINT pending_logins_owner
        CHECK ((state = 'approved') = (user_id IS NOT NULL) AND (user_id IS NULL) = (tenant_id IS NULL)),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX pending_logins_network ON pending_logins (network, created_at) WHERE state = 'pending';
CREATE INDEX pending_logins_expires ON pending_logins (expires_at);
CREATE INDEX pending_logins_user ON pending_logins (tenant_id, user_id);

ALTER TABLE pending_logins ENABLE ROW LEVEL SECURITY;
ALTER TABLE pending_logins FORCE ROW LEVEL SECURITY;
CREATE POLICY wide ON pending_logins TO hs_owner, hs_acs USING (true) WITH CHECK (true);
CREATE POLICY watch ON pending_logins FOR SELECT TO hs_console USING (true);
GRANT SELECT ON pending_logins TO hs_acs, hs_console;

-- Logins by id, all of them when no ids are given. A login past its time that nobody decided is 'expired'.
CREATE FUNCTION read_logins(ids text[], clock double precision)
RETURNS TABLE (l_id text, l_seen_in text, l_machine bytea, l_node bytea, l_hostname text, l_os text, l_version text,
               l_capver integer, l_ephemeral boolean, l_address text, l_state text, l_tenant bigint, l_user bigint,
               l_device bigint, l_created double precision, l_expires double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT id, seen_in, machine_key, node_key, hostname, os, version, capver, ephemeral, address,
           CASE WHEN expires_at <= COALESCE(to_timestamp(clock), clock_timestamp()) THEN 'expired' ELSE state END,
           tenant_id, user_id, device_id,
           extract(epoch FROM created_at)::float8, extract(epoch FROM expires_at)::float8
      FROM pending_logins
     WHERE ids IS NULL OR id = ANY (ids)
     ORDER BY created_at, id
$$;

-- The live login of these keys, else a new one under `fresh_id`. Strangers get here: what is past its time goes,
-- a network has at most `per_network` undecided ones, the oldest gives way; above `in_all` the network with
-- the most loses its oldest.
CREATE FUNCTION open_login(
    fresh_id text, c text, m_key bytea, n_key bytea, host text, system text, client text, cap integer,
    wants_ephemeral boolean, source text, source_network text, life_s double precision,
    per_network bigint, in_all bigint, clock double precision)
RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE
    at timestamptz := COALESCE(to_timestamp(clock), clock_timestamp());
    found_id text;
BEGIN
    PERFORM refuse_other_cluster(c);
    -- The bounds are counted by one at a time.
    PERFORM pg_advisory_xact_lock(7410, 0);
    DELETE FROM pending_logins WHERE expires_at <= at;
    DELETE FROM pending_logins WHERE machine_key = m_key AND node_key = n_key AND device_id IS NOT NULL;
    SELECT id INTO found_id FROM pending_logins WHERE machine_key = m_key AND node_key = n_key;
    IF FOUND THEN
        RETURN found_id;
    END IF;
    DELETE FROM pending_logins WHERE id IN (
        SELECT id FROM pending_logins WHERE network = source_network AND state = 'pending'
         ORDER BY created_at DESC, id OFFSET GREATEST(per_network - 1, 0));
    IF (SELECT count(*) FROM pending_logins WHERE state = 'pending') >= in_all THEN
        DELETE FROM pending_logins WHERE id = (
            SELECT id FROM pending_logins WHERE state = 'pending' AND network = (
                SELECT network FROM pending_logins WHERE state = 'pending'
                 GROUP BY network ORDER BY count(*) DESC, min(created_at) LIMIT 1)
             ORDER BY created_at, id LIMIT 1);
    END IF;
    INSERT INTO pending_logins (id, seen_in, machine_key, node_key, hostname, os, version, capver, ephemeral,
                                address, network, created_at, expires_at)
    VALUES (fresh_id, c, m_key, n_key, host, system, client, cap, wants_ephemeral,
            source, source_network, at, at + life_s * interval '1 second');
    RETURN fresh_id;
END $$;

-- Approves (for a user of this cluster) or denies a login that nobody decided yet: 'decided'. Otherwise the
-- state that stands in the way, 'no_user', or NULL for a login nobody knows.
CREATE FUNCTION decide_login(c text, login text, decision text, t bigint, u bigint, life_s double precision,
                             clock double precision) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE
    at timestamptz := COALESCE(to_timestamp(clock), clock_timestamp());
    stands text;
BEGIN
    PERFORM refuse_other_cluster(c);
    IF current_setting('role') = 'hs_node' THEN
        PERFORM check_epoch();
    END IF;
    IF decision = 'approved'
       AND NOT EXISTS (SELECT 1 FROM users WHERE cluster_id = c AND tenant_id = t AND id = u) THEN
        RETURN 'no_user';
    END IF;
    SELECT CASE WHEN expires_at <= at THEN 'expired' ELSE state END INTO stands
      FROM pending_logins WHERE id = login FOR UPDATE;
    IF stands = 'pending' THEN
        UPDATE pending_logins
           SET state = decision, tenant_id = t, user_id = u, expires_at = at + life_s * interval '1 second'
         WHERE id = login;
        PERFORM pg_notify('hs_logins', login);
        RETURN 'decided';
    END IF;
    RETURN stands;
END $$;

CREATE FUNCTION trim_logins(clock double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE gone bigint;
BEGIN
    DELETE FROM pending_logins WHERE expires_at <= COALESCE(to_timestamp(clock), clock_timestamp());
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;

-- For register() below: the owner an approved, unused login gives, locked until the transaction ends.
CREATE FUNCTION usable_login(login text, m_key bytea, n_key bytea, at timestamptz)
RETURNS TABLE (tenant_id bigint, user_id bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT p.tenant_id, p.user_id FROM pending_logins p
     WHERE p.id = login AND p.machine_key = m_key AND p.node_key = n_key
       AND p.state = 'approved' AND p.device_id IS NULL AND p.expires_at > at
       FOR UPDATE
$$;

CREATE FUNCTION finish_login(login text, device bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    UPDATE pending_logins SET device_id = device WHERE id = login AND state = 'approved'
$$;

-- Registration: one call, under the caller's own rights (row security and fence apply).
-- auth: 'none', 'malformed', 'key' (then key_tenant, key_prefix, key_hash are given) or 'login' (then
-- key_prefix is the id of an approved login, good for the keys it was asked with and for one device).
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
    gives_tags text[] := '{}';
    gives_ephemeral boolean := false;
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
        IF auth IN ('none', 'login') AND cardinality(wants_tags) > 0 THEN
            r_status := 'refused'; r_code := 'tags_need_key';
            RETURN NEXT; RETURN;
        ELSIF auth = 'none' THEN
            r_status := 'needs_login'; r_code := 'needs_login';
            RETURN NEXT; RETURN;
        ELSIF auth = 'login' THEN
            SELECT l.tenant_id, l.user_id INTO key_tenant, owner FROM usable_login(key_prefix, m_key, n_key, at) l;
            IF key_tenant IS NULL THEN
                r_status := 'needs_login'; r_code := 'needs_login';
                RETURN NEXT; RETURN;
            END IF;
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

        r_status := 'refused';
        IF auth = 'key' THEN
            SELECT * INTO k FROM pre_auth_keys
             WHERE cluster_id = c AND tenant_id = key_tenant AND prefix = key_prefix AND hash = key_hash
               FOR NO KEY UPDATE;
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
            gives_tags := k.tags;
            gives_ephemeral := k.ephemeral;
            owner := CASE WHEN cardinality(k.tags) = 0 THEN k.user_id END;
        END IF;
        IF r_code IS NOT NULL THEN
            RETURN NEXT; RETURN;
        END IF;

        IF owner IS NOT NULL THEN
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
            UPDATE nodes SET node_key = n_key, user_id = owner, tags = gives_tags, expiry = until, auth_key_id = k.id,
                   register_method = CASE auth WHEN 'key' THEN 'auth_key' ELSE auth END,
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
                    'fd7a:115c:a1e0::'::inet + o, host, free_name(c, key_tenant, 0, label),
                    CASE auth WHEN 'key' THEN 'auth_key' ELSE auth END, gives_tags, k.id,
                    gives_ephemeral OR wants_ephemeral, until, cap, info::json)
            RETURNING id INTO d.id;
            UPDATE tenant_counters SET next_off = o + 1 WHERE cluster_id = c AND tenant_id = key_tenant;
        END IF;
        IF auth = 'key' THEN
            UPDATE pre_auth_keys SET used = true, uses = uses + 1
             WHERE cluster_id = c AND tenant_id = key_tenant AND id = k.id;
        ELSE
            PERFORM finish_login(key_prefix, d.id);
        END IF;
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

GRANT EXECUTE ON FUNCTION read_logins(text[], double precision), trim_logins(double precision),
    decide_login(text, text, text, bigint, bigint, double precision, double precision) TO hs_node, hs_admin, hs_acs;
GRANT EXECUTE ON FUNCTION open_login(text, text, bytea, bytea, text, text, text, integer, boolean, text, text,
                                     double precision, bigint, bigint, double precision) TO hs_node;
GRANT EXECUTE ON FUNCTION usable_login(text, bytea, bytea, timestamptz), finish_login(text, bigint),
    register(text, text, bigint, text, bytea, bytea, bytea, bytea, text, text, text, integer, boolean, text[],
             double precision, double precision, double precision)
    TO hs_node, hs_admin;
