-- Jobs of the leading hs-acs; clusters that wait to be admitted; tenants that are purged for good.

CREATE TABLE jobs (
    name         text PRIMARY KEY CHECK (char_length(name) BETWEEN 1 AND 100),
    every_s      double precision NOT NULL CHECK (every_s > 0),
    state        text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    -- who ran it last
    instance     text NOT NULL DEFAULT '',
    started_at   timestamptz,
    duration_s   double precision,
    result       text NOT NULL DEFAULT '',
    error        text,
    runs         bigint NOT NULL DEFAULT 0,
    failures     bigint NOT NULL DEFAULT 0,
    -- somebody wants it run now
    requested_at timestamptz,
    requested_by text,
    CONSTRAINT jobs_reason CHECK ((state = 'failed') = (error IS NOT NULL))
);
ALTER TABLE jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
CREATE POLICY wide ON jobs TO hs_owner, hs_acs USING (true) WITH CHECK (true);
CREATE POLICY watch ON jobs FOR SELECT TO hs_console USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON jobs TO hs_acs;
GRANT SELECT ON jobs TO hs_console;

-- Whether an hs-acs is in charge: one that was heard of within 30 s, or one that leads.
CREATE FUNCTION acs_in_charge() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM instances
                    WHERE kind = 'acs' AND heartbeat_at > clock_timestamp() - interval '30 seconds')
        OR EXISTS (SELECT 1 FROM leases
                    WHERE name = 'acs' AND holder <> '' AND expires_at > clock_timestamp())
$$;

DROP FUNCTION ensure_cluster(text, text, text);

-- The state of a cluster that is new, NULL for one that was there. Its home tenant bears its name. Where an
-- hs-acs is in charge it gets no other tenants until it is admitted.
CREATE FUNCTION ensure_cluster(c text, region text, label text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE first_state text := CASE WHEN acs_in_charge() THEN 'joining' ELSE 'active' END;
BEGIN
    PERFORM refuse_other_cluster(c);
    PERFORM pg_advisory_xact_lock(7402, 0);
    INSERT INTO clusters (cluster_id, region, state) VALUES (c, COALESCE(region, ''), first_state)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM create_tenant(c, c, label, true, NULL, NULL, NULL);
        RETURN first_state;
    END IF;
    RETURN NULL;
END $$;

-- A relay carries nothing for tenants that are cut off.
CREATE OR REPLACE FUNCTION node_key_known(k bytea) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM nodes n JOIN tenants t ON t.tenant_id = n.tenant_id
                    WHERE n.node_key = k AND t.status NOT IN ('suspended', 'deleted'))
$$;

CREATE FUNCTION tg_tenants_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM capture('tenant', OLD.cluster_id, OLD.tenant_id, ARRAY['tenant']);
    RETURN NULL;
END $$;
CREATE TRIGGER z_d AFTER DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION tg_tenants_gone();

-- Takes a tenant that was deleted so long ago away for good, with all that is its own; what it had, NULL when
-- it is not to be purged. Its usage and what the audit log says of it stay.
CREATE FUNCTION purge_tenant(t bigint, grace_s double precision)
RETURNS TABLE (p_cluster text, p_name text, p_devices integer, p_users integer, p_keys integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    -- As a move does: whoever writes rows of this tenant has ended, or finds none.
    PERFORM pg_advisory_xact_lock((7404::bigint << 40) + t);
    SELECT n.cluster_id, n.name, k.devices, k.users, k.keys
      INTO p_cluster, p_name, p_devices, p_users, p_keys
      FROM tenants n JOIN tenant_counters k ON k.tenant_id = n.tenant_id
     WHERE n.tenant_id = t AND n.status = 'deleted' AND NOT n.is_home
       AND n.deleted_at < clock_timestamp() - grace_s * interval '1 second'
       FOR UPDATE OF n;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    DELETE FROM requests WHERE tenant_id = t;
    DELETE FROM pending_logins WHERE tenant_id = t;
    DELETE FROM nodes WHERE tenant_id = t;
    DELETE FROM node_state WHERE tenant_id = t;
    DELETE FROM deleted_devices WHERE tenant_id = t;
    DELETE FROM pre_auth_keys WHERE tenant_id = t;
    DELETE FROM policies WHERE tenant_id = t;
    DELETE FROM users WHERE tenant_id = t;
    DELETE FROM api_tokens WHERE tenant_id = t;
    -- Or a token would make a new tenant of the same name.
    DELETE FROM join_tokens WHERE tenant = p_name;
    DELETE FROM tenant_counters WHERE tenant_id = t;
    DELETE FROM tenants WHERE tenant_id = t;
    RETURN NEXT;
END $$;

REVOKE EXECUTE ON FUNCTION acs_in_charge(), ensure_cluster(text, text, text), tg_tenants_gone(),
    purge_tenant(bigint, double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_cluster(text, text, text) TO hs_node, hs_admin, hs_acs;
GRANT EXECUTE ON FUNCTION purge_tenant(bigint, double precision) TO hs_acs;
