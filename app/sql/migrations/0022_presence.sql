-- When devices came and went: what an operator asks about one that "keeps dropping".

-- No key to nodes: rows are written in bulk, ids are never used again, and all of it is forgotten after days,
-- or with its tenant.
CREATE TABLE presence (
    cluster_id text NOT NULL DEFAULT 'default',
    tenant_id  bigint NOT NULL,
    node_id    bigint NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    online     boolean NOT NULL
);
CREATE INDEX presence_device ON presence (tenant_id, node_id, at);
CREATE INDEX presence_at ON presence (cluster_id, at);

ALTER TABLE presence ENABLE ROW LEVEL SECURITY;
ALTER TABLE presence FORCE ROW LEVEL SECURITY;
CREATE POLICY scoped ON presence TO hs_node, hs_admin
    USING (cluster_id = current_setting('hs.cluster_id', true))
    WITH CHECK (cluster_id = current_setting('hs.cluster_id', true));
CREATE POLICY wide ON presence TO hs_owner, hs_acs USING (true) WITH CHECK (true);
CREATE POLICY watch ON presence FOR SELECT TO hs_console USING (true);
GRANT SELECT, INSERT, DELETE ON presence TO hs_node;
GRANT SELECT ON presence TO hs_console, hs_admin, hs_acs;

CREATE FUNCTION tg_forget_presence() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    DELETE FROM presence WHERE tenant_id = OLD.tenant_id;
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION tg_forget_presence() FROM PUBLIC;
CREATE TRIGGER y_presence AFTER DELETE ON tenants FOR EACH ROW EXECUTE FUNCTION tg_forget_presence();
