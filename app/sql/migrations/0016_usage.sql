-- What tenants use, by the hour; what it costs; limits that are lifted for a while.

-- History keeps the cluster it was made in: a tenant that moves leaves its rows behind.
CREATE TABLE usage (
    cluster_id    text NOT NULL DEFAULT 'default',
    tenant_id     bigint NOT NULL,
    hour          timestamptz NOT NULL CHECK (hour = date_trunc('hour', hour, 'UTC')),
    registered    integer NOT NULL,
    peak          integer NOT NULL,
    connected_s   double precision NOT NULL,
    map_bytes     bigint NOT NULL,
    registrations integer NOT NULL,
    PRIMARY KEY (tenant_id, hour, cluster_id)
);
CREATE INDEX usage_cl ON usage (cluster_id, hour);
CREATE INDEX usage_hour ON usage (hour);
ALTER TABLE usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE usage FORCE ROW LEVEL SECURITY;
CREATE TRIGGER a_guard BEFORE INSERT OR UPDATE OR DELETE ON usage FOR EACH STATEMENT
    WHEN (current_setting('role') = 'hs_node') EXECUTE FUNCTION tg_guard();
CREATE POLICY scoped ON usage TO hs_node, hs_admin
    USING (cluster_id = current_setting('hs.cluster_id', true))
    WITH CHECK (cluster_id = current_setting('hs.cluster_id', true));
CREATE POLICY wide ON usage TO hs_owner, hs_acs USING (true) WITH CHECK (true);
CREATE POLICY watch ON usage FOR SELECT TO hs_console USING (true);
GRANT SELECT ON usage TO hs_node, hs_admin, hs_acs, hs_console;
GRANT INSERT, UPDATE ON usage TO hs_node;
GRANT DELETE ON usage TO hs_acs;

CREATE TABLE price_lists (
    id           integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    currency     text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    device_hour  numeric(20, 8) NOT NULL CHECK (device_hour >= 0),
    gigabyte     numeric(20, 8) NOT NULL CHECK (gigabyte >= 0),
    -- plan -> fee of a month, as text
    plan_fees    jsonb NOT NULL DEFAULT '{}',
    version      bigint NOT NULL DEFAULT 1
);

-- Limits of a tenant until a time; `former` are those that come back then.
CREATE TABLE quota_overrides (
    tenant_id  bigint PRIMARY KEY REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    former     jsonb NOT NULL,
    ends_at    timestamptz NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['price_lists', 'quota_overrides']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY wide ON %I TO hs_owner, hs_acs USING (true) WITH CHECK (true)', t);
        EXECUTE format('CREATE POLICY watch ON %I FOR SELECT TO hs_console USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO hs_acs', t);
        EXECUTE format('GRANT SELECT ON %I TO hs_console', t);
    END LOOP;
END $$;
