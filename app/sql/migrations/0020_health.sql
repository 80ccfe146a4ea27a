-- Load of every process by the minute, and alarms.

-- What a kind of process does not measure is NULL. An hs-acs is of no cluster: its cluster_id is empty.
CREATE TABLE load_samples (
    cluster_id   text NOT NULL DEFAULT 'default',
    instance_id  text NOT NULL,
    minute       timestamptz NOT NULL CHECK (minute = date_trunc('minute', minute, 'UTC')),
    -- seconds that the counts below are of
    span_s       double precision NOT NULL CHECK (span_s > 0),
    connected    integer,
    registered   integer,
    changes      bigint,
    frames       bigint,
    bytes        bigint,
    cpu_s        double precision NOT NULL,
    rss          bigint,
    -- the worst of the minute
    loop_lag_s   double precision NOT NULL,
    pool_used    integer NOT NULL,
    pool_size    integer NOT NULL,
    -- requests that nobody has carried out yet
    backlog      integer NOT NULL,
    -- the process's clock before the database's
    clock_skew_s double precision NOT NULL,
    PRIMARY KEY (cluster_id, instance_id, minute)
);
CREATE INDEX load_samples_minute ON load_samples (minute);

-- An alarm is open until it is cleared; raised again it is another one.
CREATE SEQUENCE alarm_ids;
CREATE TABLE alarms (
    id              bigint PRIMARY KEY DEFAULT nextval('alarm_ids'),
    cluster_id      text NOT NULL DEFAULT 'default',
    rule            text NOT NULL,
    object          text NOT NULL,
    severity        text NOT NULL CHECK (severity IN ('critical', 'warning', 'notice')),
    text            text NOT NULL,
    raised_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    cleared_at      timestamptz,
    acknowledged_by text,
    acknowledged_at timestamptz,
    CONSTRAINT alarms_acknowledged CHECK ((acknowledged_by IS NULL) = (acknowledged_at IS NULL))
);
CREATE INDEX alarms_cl ON alarms (cluster_id, id);
CREATE UNIQUE INDEX alarms_open ON alarms (rule, cluster_id, object) WHERE cleared_at IS NULL;

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['load_samples', 'alarms']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY scoped ON %I TO hs_node, hs_admin'
                       ' USING (cluster_id = current_setting(''hs.cluster_id'', true))'
                       ' WITH CHECK (cluster_id = current_setting(''hs.cluster_id'', true))', t);
        EXECUTE format('CREATE POLICY wide ON %I TO hs_owner, hs_acs USING (true) WITH CHECK (true)', t);
        EXECUTE format('CREATE POLICY watch ON %I FOR SELECT TO hs_console USING (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO hs_acs', t);
        EXECUTE format('GRANT SELECT ON %I TO hs_console, hs_node, hs_admin', t);
    END LOOP;
END $$;
GRANT INSERT, UPDATE, DELETE ON load_samples TO hs_node;
GRANT USAGE ON SEQUENCE alarm_ids TO hs_acs;

-- How many, and no more: what is in them is not the console's.
CREATE FUNCTION dead_deliveries(within_s double precision) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT count(*) FROM webhook_deliveries
     WHERE state = 'dead' AND ended_at > now() - within_s * interval '1 second'
$$;
REVOKE EXECUTE ON FUNCTION dead_deliveries(double precision) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dead_deliveries(double precision) TO hs_acs, hs_console;
