-- Limits on routes and on requests a minute; who reaches a limit is told of, and invoices are when they are ready.

ALTER TABLE plans
    ADD COLUMN max_routes   integer CHECK (max_routes >= 0),
    ADD COLUMN max_requests integer CHECK (max_requests > 0);
ALTER TABLE tenants
    ADD COLUMN max_routes   integer CHECK (max_routes >= 0),
    ADD COLUMN max_requests integer CHECK (max_requests > 0);
CREATE INDEX nodes_with_routes ON nodes (tenant_id) WHERE approved_routes <> '{}';

CREATE FUNCTION quota_reached(t bigint, what text, used bigint, most bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
    INSERT INTO audit_log (cluster_id, tenant_id, actor, action, object, after)
    SELECT cluster_id, t, 'quota', 'quota_reached', 'tenant:' || t,
           jsonb_build_object('what', what, 'used', used, 'limit', most)
      FROM tenants WHERE tenant_id = t
$$;

CREATE FUNCTION tg_quota_reached() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE most record;
BEGIN
    SELECT max_devices, max_users, max_keys INTO most FROM tenants WHERE tenant_id = NEW.tenant_id;
    IF NEW.devices > OLD.devices AND NEW.devices >= most.max_devices THEN
        PERFORM quota_reached(NEW.tenant_id, 'devices', NEW.devices, most.max_devices);
    END IF;
    IF NEW.users > OLD.users AND NEW.users >= most.max_users THEN
        PERFORM quota_reached(NEW.tenant_id, 'users', NEW.users, most.max_users);
    END IF;
    IF NEW.keys > OLD.keys AND NEW.keys >= most.max_keys THEN
        PERFORM quota_reached(NEW.tenant_id, 'keys', NEW.keys, most.max_keys);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER z_quota AFTER UPDATE ON tenant_counters FOR EACH ROW
    WHEN (NEW.devices > OLD.devices OR NEW.users > OLD.users OR NEW.keys > OLD.keys)
    EXECUTE FUNCTION tg_quota_reached();

-- Of more approvals than a tenant may have those are kept that it had, then the first: whoever gives one by hand
-- sees that it is missing and refuses.
CREATE FUNCTION tg_route_quota() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
DECLARE
    most integer;
    others bigint;
    had text[] := '{}';
BEGIN
    SELECT max_routes INTO most FROM tenants WHERE tenant_id = NEW.tenant_id;
    IF most IS NULL THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        had := OLD.approved_routes;
    END IF;
    -- Two devices of a tenant get approvals one after the other.
    PERFORM 1 FROM tenant_counters WHERE tenant_id = NEW.tenant_id FOR UPDATE;
    SELECT COALESCE(sum(cardinality(n.approved_routes)), 0) INTO others
      FROM nodes n WHERE n.tenant_id = NEW.tenant_id AND n.id <> NEW.id AND n.approved_routes <> '{}';
    IF others + cardinality(NEW.approved_routes) >= most THEN
        NEW.approved_routes := merged_texts('{}', ARRAY(
            SELECT r FROM unnest(NEW.approved_routes) WITH ORDINALITY AS w (r, place)
             ORDER BY r = ANY (had) DESC, place LIMIT GREATEST(most - others, cardinality(had))));
        IF others + cardinality(had) < most THEN
            PERFORM quota_reached(NEW.tenant_id, 'routes', others + cardinality(NEW.approved_routes), most);
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER b_routes_i BEFORE INSERT ON nodes FOR EACH ROW
    WHEN (NEW.approved_routes <> '{}') EXECUTE FUNCTION tg_route_quota();
CREATE TRIGGER b_routes_u BEFORE UPDATE OF approved_routes ON nodes FOR EACH ROW
    WHEN (NOT NEW.approved_routes <@ OLD.approved_routes) EXECUTE FUNCTION tg_route_quota();

-- The owner of a tenant's cluster counts its requests.
CREATE FUNCTION tg_tenant_rate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = hs, pg_temp AS $$
BEGIN
    PERFORM capture('tenant', NEW.cluster_id, NEW.tenant_id, ARRAY['tenant']);
    RETURN NULL;
END $$;
CREATE TRIGGER z_rate AFTER UPDATE OF max_requests ON tenants FOR EACH ROW
    WHEN (NEW.max_requests IS DISTINCT FROM OLD.max_requests) EXECUTE FUNCTION tg_tenant_rate();

DROP TRIGGER z_webhooks ON audit_log;
CREATE TRIGGER z_webhooks AFTER INSERT ON audit_log FOR EACH ROW
    WHEN (NEW.action LIKE 'tenant\_%' OR NEW.action LIKE 'quota\_%' OR NEW.action LIKE 'rebalance\_%'
          OR NEW.action LIKE 'cluster\_%' OR NEW.action LIKE 'invoice\_%')
    EXECUTE FUNCTION tg_webhooks();

REVOKE EXECUTE ON FUNCTION quota_reached(bigint, text, bigint, bigint), tg_quota_reached(), tg_route_quota(),
    tg_tenant_rate() FROM PUBLIC;
