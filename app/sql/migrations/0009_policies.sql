-- Policies of tenants, roles of users, routes of devices.

-- Rows are only ever added: the policy in force is the highest version.
CREATE TABLE policies (
    tenant_id  bigint NOT NULL,
    cluster_id text NOT NULL DEFAULT 'default',
    version    integer NOT NULL CHECK (version > 0),
    text       text NOT NULL,
    hash       text NOT NULL CONSTRAINT policies_hash CHECK (hash ~ '^[0-9a-f]{64}$'),
    author     text NOT NULL DEFAULT '',
    note       text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, version),
    CONSTRAINT policies_placement FOREIGN KEY (tenant_id, cluster_id)
        REFERENCES tenants (tenant_id, cluster_id) ON UPDATE CASCADE
);
CREATE INDEX policies_cl ON policies (cluster_id, tenant_id);

CREATE TRIGGER a_guard BEFORE INSERT OR UPDATE OR DELETE ON policies FOR EACH STATEMENT
    WHEN (current_setting('role') = 'hs_node') EXECUTE FUNCTION tg_guard();

-- Only the cluster may change: the tenant moves.
CREATE FUNCTION tg_policies_kept() RETURNS trigger
LANGUAGE plpgsql SET search_path = hs, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a version of a policy never changes: add another one' USING ERRCODE = '42501';
END $$;
CREATE TRIGGER b_kept BEFORE UPDATE ON policies FOR EACH ROW
    WHEN ((OLD.tenant_id, OLD.version, OLD.text, OLD.hash, OLD.author, OLD.note, OLD.created_at)
          IS DISTINCT FROM (NEW.tenant_id, NEW.version, NEW.text, NEW.hash, NEW.author, NEW.note, NEW.created_at))
    EXECUTE FUNCTION tg_policies_kept();

CREATE FUNCTION tg_policies() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN SELECT DISTINCT tenant_id, cluster_id FROM x ORDER BY tenant_id LOOP
        PERFORM capture('policy', r.cluster_id, r.tenant_id, ARRAY['policy']);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER z_i AFTER INSERT ON policies REFERENCING NEW TABLE AS x FOR EACH STATEMENT EXECUTE FUNCTION tg_policies();
CREATE TRIGGER z_d AFTER DELETE ON policies REFERENCING OLD TABLE AS x FOR EACH STATEMENT EXECUTE FUNCTION tg_policies();

CREATE POLICY scoped ON policies TO hs_node, hs_admin
    USING (cluster_id = current_setting('hs.cluster_id', true))
    WITH CHECK (cluster_id = current_setting('hs.cluster_id', true));
CREATE POLICY wide ON policies TO hs_owner, hs_acs USING (true) WITH CHECK (true);
CREATE POLICY watch ON policies FOR SELECT TO hs_console USING (true);
ALTER TABLE policies ENABLE ROW LEVEL SECURITY;
ALTER TABLE policies FORCE ROW LEVEL SECURITY;
GRANT SELECT ON policies TO hs_node, hs_admin, hs_acs, hs_console;
GRANT INSERT ON policies TO hs_node, hs_admin, hs_acs;

ALTER TABLE users ADD role text NOT NULL DEFAULT 'member' CONSTRAINT users_role
    CHECK (role IN ('owner', 'admin', 'it-admin', 'network-admin', 'billing-admin', 'auditor', 'member'));

-- What a device offers to carry, and what it may. The casts fail for what is no prefix.
ALTER TABLE nodes
    ADD announced_routes text[] NOT NULL DEFAULT '{}'
        CONSTRAINT nodes_announced_routes CHECK (announced_routes::cidr[] IS NOT NULL),
    ADD approved_routes text[] NOT NULL DEFAULT '{}'
        CONSTRAINT nodes_approved_routes CHECK (approved_routes::cidr[] IS NOT NULL);

CREATE OR REPLACE FUNCTION tg_users_u() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN
        SELECT d.tenant_id, array_agg('user:' || d.id ORDER BY d.id) AS keys,
               (SELECT cluster_id FROM tenants t WHERE t.tenant_id = d.tenant_id) AS cluster_id
        FROM (SELECT tenant_id, id, name, display_name, email, profile_pic_url, role, created_at FROM n
              EXCEPT
              SELECT tenant_id, id, name, display_name, email, profile_pic_url, role, created_at FROM o) d
        GROUP BY d.tenant_id ORDER BY d.tenant_id
    LOOP
        PERFORM capture('user', r.cluster_id, r.tenant_id, r.keys);
    END LOOP;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION tg_nodes_u() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE r record;
BEGIN
    FOR r IN
        SELECT d.tenant_id, array_agg(DISTINCT d.key ORDER BY d.key) AS keys,
               (SELECT cluster_id FROM tenants t WHERE t.tenant_id = d.tenant_id) AS cluster_id
        FROM (
            SELECT x.tenant_id, 'device:' || x.id AS key FROM (
                SELECT tenant_id, id, user_id, machine_key, node_key, disco_key, ipv4, ipv6, hostname, given_name,
                       register_method, tags, auth_key_id, ephemeral, expiry, capver, host_info::text, created_at,
                       announced_routes, approved_routes FROM n
                EXCEPT
                SELECT tenant_id, id, user_id, machine_key, node_key, disco_key, ipv4, ipv6, hostname, given_name,
                       register_method, tags, auth_key_id, ephemeral, expiry, capver, host_info::text, created_at,
                       announced_routes, approved_routes FROM o
            ) x
            UNION ALL
            SELECT x.tenant_id, x.tag FROM (
                SELECT tenant_id, id, unnest(tags) AS tag FROM n EXCEPT SELECT tenant_id, id, unnest(tags) FROM o) x
            UNION ALL
            SELECT x.tenant_id, x.tag FROM (
                SELECT tenant_id, id, unnest(tags) AS tag FROM o EXCEPT SELECT tenant_id, id, unnest(tags) FROM n) x
            UNION ALL
            SELECT x.tenant_id, 'route:' || x.route FROM (
                (SELECT tenant_id, id, 'announced', unnest(announced_routes) AS route FROM n
                 UNION ALL SELECT tenant_id, id, 'approved', unnest(approved_routes) FROM n)
                EXCEPT
                (SELECT tenant_id, id, 'announced', unnest(announced_routes) FROM o
                 UNION ALL SELECT tenant_id, id, 'approved', unnest(approved_routes) FROM o)) x
            UNION ALL
            SELECT x.tenant_id, 'route:' || x.route FROM (
                (SELECT tenant_id, id, 'announced', unnest(announced_routes) AS route FROM o
                 UNION ALL SELECT tenant_id, id, 'approved', unnest(approved_routes) FROM o)
                EXCEPT
                (SELECT tenant_id, id, 'announced', unnest(announced_routes) FROM n
                 UNION ALL SELECT tenant_id, id, 'approved', unnest(approved_routes) FROM n)) x
        ) d
        GROUP BY d.tenant_id ORDER BY d.tenant_id
    LOOP
        PERFORM capture('node', r.cluster_id, r.tenant_id, r.keys);
    END LOOP;
    RETURN NULL;
END $$;

-- Both lists as one, each text once, in the order of their bytes.
CREATE FUNCTION merged_texts(one text[], other text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = hs, pg_temp AS $$
    SELECT COALESCE(array_agg(DISTINCT x COLLATE "C" ORDER BY x COLLATE "C"), '{}') FROM unnest(one || other) x
$$;

-- Those of the things (tags, routes) that a user, or a device with these tags, may have.
-- permits: {thing: {"users": [ids], "anyone": every user, "tags": [tags]}}
CREATE FUNCTION permitted(permits jsonb, things text[], u bigint, had_tags text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = hs, pg_temp AS $$
    SELECT COALESCE(array_agg(DISTINCT x COLLATE "C" ORDER BY x COLLATE "C"), '{}') FROM unnest(things) x
     WHERE u IS NOT NULL AND (permits -> x ->> 'anyone' = 'true' OR permits -> x -> 'users' @> to_jsonb(u))
        OR permits -> x -> 'tags' ?| had_tags
$$;

DROP FUNCTION register(text, text, bigint, text, bytea, bytea, bytea, bytea, text, text, text, integer, boolean,
                       text[], double precision, double precision, double precision);

-- Registration: one call, under the caller's own rights (row security and fence apply).
-- auth: 'none', 'malformed', 'key' (then key_tenant, key_prefix, key_hash are given) or 'login' (then
-- key_prefix is the id of an approved login, good for the keys it was asked with and for one device).
-- default_expiry_s: seconds until a user's device must log in again, NULL for never.
-- permits: for permitted(), who may take which of the tags asked for and announce which of the routes unapproved.
CREATE FUNCTION register(
    c text, auth text, key_tenant bigint, key_prefix text, key_hash bytea,
    m_key bytea, n_key bytea, old_key bytea, host text, label text, info text, cap integer,
    wants_ephemeral boolean, wants_tags text[], wish double precision, default_expiry_s double precision,
    clock double precision, announced text[], permits text)
RETURNS TABLE (
    r_status text, r_code text, r_fact double precision, r_refused text[],
    d_id bigint, d_tenant bigint, d_user bigint, d_machine bytea, d_node bytea, d_disco bytea, d_ipv4 text, d_ipv6 text,
    d_hostname text, d_given_name text, d_tags text[], d_ephemeral boolean, d_expiry double precision,
    d_created double precision, d_auth_key bigint, d_method text, d_capver integer, d_hostinfo bytea,
    d_announced text[], d_approved text[],
    d_endpoints text[], d_home_derp integer, d_online boolean, d_last_seen double precision,
    u_id bigint, u_tenant bigint, u_name text, u_display text, u_email text, u_picture text, u_created double precision,
    u_role text,
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
    may jsonb := permits::jsonb;
    taker bigint;
    had_tags text[];
    gives_tags text[] := '{}';
    gives_routes text[];
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
            -- What it announced before stays as somebody may have decided it since.
            gives_routes := merged_texts(d.approved_routes, permitted(
                may, ARRAY(SELECT unnest(announced) EXCEPT SELECT unnest(d.announced_routes)), d.user_id, d.tags));
            UPDATE nodes SET hostname = host, host_info = info::json, capver = cap, expiry = until,
                   announced_routes = announced, approved_routes = gives_routes
             WHERE cluster_id = c AND tenant_id = d.tenant_id AND id = d.id
               AND (hostname, host_info::text, capver, expiry, announced_routes, approved_routes)
                   IS DISTINCT FROM (host, info, cap, until, announced, gives_routes);
        END IF;
    ELSE
        IF auth = 'none' THEN
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
            END IF;
            gives_tags := k.tags;
            gives_ephemeral := k.ephemeral;
            owner := CASE WHEN cardinality(k.tags) = 0 THEN k.user_id END;
        END IF;
        -- Tags of a key win over those asked for.
        IF r_code IS NULL AND owner IS NOT NULL AND cardinality(wants_tags) > 0 THEN
            taker := owner;
            owner := NULL;
            SELECT tags INTO had_tags FROM nodes
             WHERE cluster_id = c AND tenant_id = key_tenant AND machine_key = m_key AND user_id IS NULL
               AND (expiry IS NULL OR expiry > at);
            gives_tags := permitted(may, wants_tags, taker, had_tags);
            r_refused := ARRAY(SELECT DISTINCT w FROM unnest(wants_tags) w WHERE w <> ALL (gives_tags) ORDER BY w);
            IF cardinality(r_refused) > 0 THEN
                r_code := 'tags_not_permitted';
            END IF;
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
            SELECT * INTO d FROM nodes
             WHERE cluster_id = c AND tenant_id = key_tenant AND machine_key = m_key
               AND (taker IS NULL OR user_id = taker)
             ORDER BY node_key IS DISTINCT FROM old_key, id DESC LIMIT 1;
        ELSIF NOT FOUND THEN
            -- Back from its tags to a user: only the very device that says it was that one.
            SELECT * INTO d FROM nodes
             WHERE cluster_id = c AND tenant_id = key_tenant AND machine_key = m_key AND user_id IS NULL
               AND node_key = old_key;
        END IF;
        gives_routes := permitted(may, announced, owner, gives_tags);
        IF d.id IS NOT NULL THEN
            r_status := 'rotated';
            UPDATE nodes SET node_key = n_key, user_id = owner, tags = gives_tags, expiry = until, auth_key_id = k.id,
                   register_method = CASE auth WHEN 'key' THEN 'auth_key' ELSE auth END,
                   hostname = host, host_info = info::json, capver = cap,
                   announced_routes = announced, approved_routes = merged_texts(d.approved_routes, gives_routes)
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
                               given_name, register_method, tags, auth_key_id, ephemeral, expiry, capver, host_info,
                               announced_routes, approved_routes)
            VALUES (key_tenant, c, owner, m_key, n_key, decode(repeat('00', 32), 'hex'), '100.64.0.0'::inet + o,
                    'fd7a:115c:a1e0::'::inet + o, host, free_name(c, key_tenant, 0, label),
                    CASE auth WHEN 'key' THEN 'auth_key' ELSE auth END, gives_tags, k.id,
                    gives_ephemeral OR wants_ephemeral, until, cap, info::json, announced, gives_routes)
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
    SELECT r_status, r_code, r_fact, NULL::text[], n.id, n.tenant_id, n.user_id, n.machine_key, n.node_key, n.disco_key,
           host(n.ipv4), host(n.ipv6), n.hostname, n.given_name, n.tags, n.ephemeral,
           extract(epoch FROM n.expiry)::float8, extract(epoch FROM n.created_at)::float8, n.auth_key_id,
           n.register_method, n.capver, convert_to(n.host_info::text, 'UTF8'),
           n.announced_routes, n.approved_routes, s.endpoints, s.home_derp, s.online, extract(epoch FROM s.last_seen)::float8,
           u.id, u.tenant_id, u.name, u.display_name, u.email, u.profile_pic_url,
           extract(epoch FROM u.created_at)::float8, u.role,
           t.tenant_id, t.cluster_id, t.name, t.dns_label, t.status, t.is_home,
           extract(epoch FROM t.created_at)::float8
      FROM nodes n
      JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
      JOIN tenants t ON t.tenant_id = n.tenant_id
      LEFT JOIN users u ON u.tenant_id = n.tenant_id AND u.id = n.user_id
     WHERE n.cluster_id = c AND n.tenant_id = d.tenant_id AND n.id = d.id;
END $$;

GRANT EXECUTE ON FUNCTION merged_texts(text[], text[]), permitted(jsonb, text[], bigint, text[]),
    register(text, text, bigint, text, bytea, bytea, bytea, bytea, text, text, text, integer, boolean, text[],
             double precision, double precision, double precision, text[], text)
    TO hs_node, hs_admin;
