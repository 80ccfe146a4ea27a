-- Requests to the deployment as a whole: no cluster, and the leading hs-acs carries them out.

-- The empty name is no cluster's; for all others the check stays, where requests are made.
ALTER TABLE requests DROP CONSTRAINT requests_cluster_id_fkey;
CREATE FUNCTION is_cluster(c text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM clusters WHERE cluster_id = c)
$$;
DROP POLICY ask ON requests;
-- Who asks may not answer.
CREATE POLICY ask ON requests FOR INSERT TO hs_console
    WITH CHECK ((cluster_id = '' OR is_cluster(cluster_id))
                AND state = 'queued' AND attempts = 0 AND claimed_by IS NULL AND claimed_epoch IS NULL
                AND progress IS NULL AND result IS NULL AND error IS NULL AND finished_at IS NULL);
GRANT EXECUTE ON FUNCTION is_cluster(text) TO hs_console;

CREATE OR REPLACE FUNCTION tg_requests() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM pg_notify(CASE c.cluster_id WHEN '' THEN 'hs_fleet' ELSE 'netmap_dirty_' || c.cluster_id END, 'request')
       FROM (SELECT DISTINCT cluster_id FROM n ORDER BY cluster_id) c;
    RETURN NULL;
END $$;

GRANT UPDATE ON requests TO hs_acs;
