-- Operator requests: what somebody who may not write netmaps asks of a cluster's owner.

CREATE SEQUENCE request_ids;
CREATE TABLE requests (
    id            bigint PRIMARY KEY DEFAULT nextval('request_ids'),
    cluster_id    text NOT NULL DEFAULT 'default' REFERENCES clusters (cluster_id),
    tenant_id     bigint,
    kind          text NOT NULL,
    args          jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(args) = 'object'),
    dedup         text,
    state         text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
    requested_by  text NOT NULL,
    requested_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts      integer NOT NULL DEFAULT 0,
    claimed_by    text,
    claimed_epoch bigint,
    progress      jsonb,
    result        jsonb,
    error         text,
    finished_at   timestamptz,
    CONSTRAINT requests_claimed CHECK (state = 'queued' OR claimed_epoch IS NOT NULL),
    CONSTRAINT requests_finished CHECK ((state IN ('done', 'failed')) = (finished_at IS NOT NULL)),
    CONSTRAINT requests_reason CHECK ((state = 'failed') = (error IS NOT NULL))
);
CREATE INDEX requests_cl ON requests (cluster_id, id);
CREATE INDEX requests_open ON requests (cluster_id, id) WHERE state IN ('queued', 'running');
CREATE UNIQUE INDEX requests_dedup ON requests (cluster_id, kind, dedup) WHERE state = 'queued' AND dedup IS NOT NULL;

CREATE TRIGGER a_guard BEFORE INSERT OR UPDATE OR DELETE ON requests FOR EACH STATEMENT
    WHEN (current_setting('role') = 'hs_node') EXECUTE FUNCTION tg_guard();

CREATE FUNCTION tg_requests() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM pg_notify('netmap_dirty_' || c.cluster_id, 'request')
       FROM (SELECT DISTINCT cluster_id FROM n ORDER BY cluster_id) c;
    RETURN NULL;
END $$;
CREATE TRIGGER z_i AFTER INSERT ON requests REFERENCING NEW TABLE AS n
    FOR EACH STATEMENT EXECUTE FUNCTION tg_requests();

CREATE FUNCTION trim_requests(c text, max_age_s double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE gone bigint;
BEGIN
    PERFORM refuse_other_cluster(c);
    DELETE FROM requests WHERE cluster_id = c AND finished_at < clock_timestamp() - max_age_s * interval '1 second';
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;

CREATE POLICY scoped ON requests TO hs_node, hs_admin
    USING (cluster_id = current_setting('hs.cluster_id', true))
    WITH CHECK (cluster_id = current_setting('hs.cluster_id', true));
CREATE POLICY wide ON requests TO hs_owner, hs_acs USING (true) WITH CHECK (true);
CREATE POLICY watch ON requests FOR SELECT TO hs_console USING (true);
-- Who asks may not answer.
CREATE POLICY ask ON requests FOR INSERT TO hs_console
    WITH CHECK (state = 'queued' AND attempts = 0 AND claimed_by IS NULL AND claimed_epoch IS NULL
                AND progress IS NULL AND result IS NULL AND error IS NULL AND finished_at IS NULL);
ALTER TABLE requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE requests FORCE ROW LEVEL SECURITY;

GRANT SELECT ON requests TO hs_node, hs_admin, hs_acs, hs_console;
GRANT INSERT ON requests TO hs_admin, hs_acs, hs_console;
GRANT UPDATE ON requests TO hs_node;
GRANT USAGE ON SEQUENCE request_ids TO hs_admin, hs_acs, hs_console;
GRANT EXECUTE ON FUNCTION trim_requests(text, double precision) TO hs_node, hs_admin, hs_acs;
