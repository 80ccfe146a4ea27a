-- Plans for moving tenants: proposed, approved, carried out step by step, undone.

CREATE SEQUENCE rebalance_ids;
CREATE TABLE rebalances (
    id          bigint PRIMARY KEY DEFAULT nextval('rebalance_ids'),
    purpose     text NOT NULL CHECK (purpose IN ('rebalance', 'drain', 'evacuate', 'move')),
    -- the cluster that is emptied
    subject     text NOT NULL DEFAULT '',
    state       text NOT NULL DEFAULT 'proposed' CHECK (state IN (
                    'proposed', 'applying', 'paused', 'verifying', 'done', 'stopped', 'failed',
                    'rolling_back', 'rolled_back')),
    why         text NOT NULL DEFAULT '',
    -- {"before": {cluster: devices}, "after": {...}, "notes": [...]}
    dry_run     jsonb NOT NULL,
    error       text,
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    approved_by text,
    -- when the last wave began, and when the plan came to an end
    wave_at     timestamptz,
    ended_at    timestamptz,
    version     bigint NOT NULL DEFAULT 1
);
CREATE INDEX rebalances_open ON rebalances (id) WHERE state IN ('applying', 'verifying', 'rolling_back');

CREATE TABLE rebalance_steps (
    rebalance_id     bigint NOT NULL REFERENCES rebalances (id) ON DELETE CASCADE,
    step             integer NOT NULL,
    tenant_id        bigint NOT NULL,
    tenant           text NOT NULL,
    source           text NOT NULL,
    target           text NOT NULL,
    devices          integer NOT NULL,
    state            text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'skipped', 'failed', 'undone')),
    error            text,
    connected_before integer,
    connected_after  integer,
    ended_at         timestamptz,
    PRIMARY KEY (rebalance_id, step)
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['rebalances', 'rebalance_steps']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY wide ON %I TO hs_owner, hs_acs USING (true) WITH CHECK (true)', t);
        EXECUTE format('CREATE POLICY watch ON %I FOR SELECT TO hs_console USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO hs_acs', t);
        EXECUTE format('GRANT SELECT ON %I TO hs_console', t);
    END LOOP;
END $$;
GRANT USAGE ON SEQUENCE rebalance_ids TO hs_acs;
