-- Entries: where the instances of a cluster are reached by other entries, and by clients with a dial plan.

ALTER TABLE instances
    ADD COLUMN internal_addr  text NOT NULL DEFAULT '',
    ADD COLUMN advertise_addr text NOT NULL DEFAULT '';

-- Routing facts only: who holds a cluster's lease, under which epoch, and where entries reach it. Every entry
-- may ask about every cluster. A lease that has expired names its holder still: a frozen owner serves on.
CREATE FUNCTION cluster_owner(c text)
RETURNS TABLE (held_by text, held_epoch bigint, addr text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    SELECT l.holder, l.epoch, i.internal_addr
      FROM leases l JOIN instances i ON i.instance_id = l.holder
     WHERE l.name = 'cluster:' || c AND l.holder <> '' AND i.internal_addr <> ''
$$;

REVOKE EXECUTE ON FUNCTION cluster_owner(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cluster_owner(text) TO hs_node, hs_admin, hs_acs;
