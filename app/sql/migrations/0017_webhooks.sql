-- Webhooks: what is written into the audit log about tenants and plans is sent to whoever wants to know.

CREATE SEQUENCE webhook_ids;
CREATE TABLE webhooks (
    id         bigint PRIMARY KEY DEFAULT nextval('webhook_ids'),
    url        text NOT NULL CHECK (char_length(url) <= 2000),
    -- events it wants, all when empty
    events     text[] NOT NULL DEFAULT '{}',
    -- what its signing key is made of, with the deployment's key
    nonce      bytea NOT NULL CHECK (octet_length(nonce) = 32),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE SEQUENCE delivery_ids;
CREATE TABLE webhook_deliveries (
    id         bigint PRIMARY KEY DEFAULT nextval('delivery_ids'),
    webhook_id bigint NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event      text NOT NULL,
    body       text NOT NULL,
    state      text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
    attempts   integer NOT NULL DEFAULT 0,
    next_at    timestamptz NOT NULL DEFAULT now(),
    error      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_at) WHERE state = 'waiting';
CREATE INDEX webhook_deliveries_hook ON webhook_deliveries (webhook_id);

-- In the transaction of the change itself: what is not committed is not told, what is committed is not lost.
CREATE FUNCTION tg_webhooks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE what text := regexp_replace(NEW.action, '_', '.');
BEGIN
    INSERT INTO webhook_deliveries (webhook_id, event, body)
    SELECT w.id, what, jsonb_build_object(
               'id', NEW.id, 'event', what, 'at', to_char(NEW.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
               'cluster', NEW.cluster_id, 'tenant', NEW.tenant_id, 'object', NEW.object, 'actor', NEW.actor,
               'before', NEW.before, 'after', NEW.after)::text
      FROM webhooks w WHERE w.events = '{}' OR what = ANY (w.events);
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION tg_webhooks() FROM PUBLIC;
CREATE TRIGGER z_webhooks AFTER INSERT ON audit_log FOR EACH ROW
    WHEN (NEW.action LIKE 'tenant\_%' OR NEW.action LIKE 'quota\_%' OR NEW.action LIKE 'rebalance\_%'
          OR NEW.action LIKE 'cluster\_%')
    EXECUTE FUNCTION tg_webhooks();

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['webhooks', 'webhook_deliveries']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY wide ON %I TO hs_owner, hs_acs USING (true) WITH CHECK (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO hs_acs', t);
    END LOOP;
END $$;
GRANT USAGE ON SEQUENCE webhook_ids, delivery_ids TO hs_acs;
