-- Who may see and write which rows: row level security, grants, and the fence for deposed owners.

-- Fence of a cluster: writers share this transaction lock, a takeover takes it exclusively.
-- Two-argument advisory keys: 7401 fence of a cluster; one-argument keys: (7404 << 40) + tenant_id.
CREATE FUNCTION check_epoch() RETURNS void
LANGUAGE plpgsql SET search_path = hs, pg_temp AS $$
DECLARE c text := current_setting('hs.cluster_id', true);
BEGIN
    -- The epoch must be read by a snapshot taken after the lock.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'owners write in READ COMMITTED only' USING ERRCODE = 'HS409';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(7401, hashtext(c));
    PERFORM 1 FROM leases
     WHERE name = 'cluster:' || c AND epoch = NULLIF(current_setting('hs.epoch', true), '')::bigint;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this instance does not hold the lease of cluster %', c USING ERRCODE = 'HS409';
    END IF;
END $$;

CREATE FUNCTION tg_guard() RETURNS trigger
LANGUAGE plpgsql SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM check_epoch();
    RETURN NULL;
END $$;

DO $$
DECLARE t text;
BEGIN
    -- rows of tenants: scoped to one cluster, written by its owner only
    FOREACH t IN ARRAY ARRAY['tenants', 'tenant_counters', 'users', 'pre_auth_keys', 'nodes', 'node_state',
                             'deleted_devices', 'derp_regions', 'audit_log']
    LOOP
        -- current_setting('role') rather than current_user: a SECURITY DEFINER function hides the latter
        EXECUTE format('CREATE TRIGGER a_guard BEFORE INSERT OR UPDATE OR DELETE ON %I FOR EACH STATEMENT'
            ' WHEN (current_setting(''role'') = ''hs_node'') EXECUTE FUNCTION tg_guard()', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['clusters', 'instances', 'tenants', 'tenant_counters', 'users', 'pre_auth_keys', 'nodes',
                             'node_state', 'deleted_devices', 'derp_regions', 'changes', 'audit_log']
    LOOP
        EXECUTE format('CREATE POLICY scoped ON %I TO hs_node, hs_admin'
            ' USING (cluster_id = current_setting(''hs.cluster_id'', true))'
            ' WITH CHECK (cluster_id = current_setting(''hs.cluster_id'', true))', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['clusters', 'leases', 'instances', 'tenants', 'tenant_counters', 'users', 'pre_auth_keys',
                             'nodes', 'node_state', 'deleted_devices', 'derp_regions', 'changes', 'audit_log']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY wide ON %I TO hs_owner, hs_acs USING (true) WITH CHECK (true)', t);
        EXECUTE format('CREATE POLICY watch ON %I FOR SELECT TO hs_console USING (true)', t);
        EXECUTE format('GRANT SELECT ON %I TO hs_node, hs_admin, hs_acs, hs_console', t);
    END LOOP;
END $$;

CREATE POLICY scoped ON leases FOR SELECT TO hs_node, hs_admin
    USING (name = 'cluster:' || current_setting('hs.cluster_id', true));
-- Every DERP map is the union of all regions of the deployment.
CREATE POLICY union_of_regions ON derp_regions FOR SELECT TO hs_node, hs_admin USING (true);
CREATE POLICY report ON audit_log FOR INSERT TO hs_console WITH CHECK (true);

GRANT USAGE ON SCHEMA hs TO hs_node, hs_admin, hs_acs, hs_console;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA hs TO hs_node, hs_admin, hs_acs;
GRANT USAGE ON SEQUENCE audit_ids TO hs_console;
GRANT SELECT ON schema_migrations TO hs_node, hs_admin, hs_acs, hs_console;
GRANT SELECT, INSERT ON deployment TO hs_node, hs_admin, hs_acs;
GRANT INSERT ON audit_log TO hs_node, hs_admin, hs_acs, hs_console;
GRANT INSERT, UPDATE, DELETE ON instances, derp_regions TO hs_node, hs_admin, hs_acs;
GRANT INSERT, UPDATE, DELETE ON users, pre_auth_keys, nodes, node_state TO hs_node, hs_admin, hs_acs;
GRANT UPDATE ON tenant_counters TO hs_node, hs_admin;
GRANT UPDATE ON tenants TO hs_admin;
GRANT INSERT, UPDATE ON clusters, tenants, tenant_counters TO hs_acs;

-- Functions are callable by nobody until a grant names the role.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA hs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION check_epoch() TO hs_node;
