-- What a registration gives out: a free name and a free address of its tenant.

-- The lowest convenient free device name: base, base-1, base-2 ... (doubling, then halving: log n look-ups).
CREATE FUNCTION free_name(c text, t bigint, self bigint, base text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = hs, pg_temp AS $$
DECLARE
    taken bigint := 0;
    free bigint := 1;
    middle bigint;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t AND given_name = base AND id <> self) THEN
        RETURN base;
    END IF;
    WHILE EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t AND id <> self
                     AND given_name = name_with_suffix(base, free)) LOOP
        taken := free;
        free := free * 2;
    END LOOP;
    WHILE free - taken > 1 LOOP
        middle := (free + taken) / 2;
        IF EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t AND id <> self
                      AND given_name = name_with_suffix(base, middle)) THEN
            taken := middle;
        ELSE
            free := middle;
        END IF;
    END LOOP;
    RETURN name_with_suffix(base, free);
END $$;

-- Next free offset into 100.64.0.0/10 and fd7a:115c:a1e0::/48 from `start` on, NULL when all are taken.
-- Left out: 100.100.0.0/24 and 100.100.100.0/24 (service addresses), 100.115.92.0/23 (ChromeOS).
CREATE FUNCTION free_offset(c text, t bigint, start integer) RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = hs, pg_temp AS $$
DECLARE
    last CONSTANT integer := 4194302;
    o integer := start;
BEGIN
    FOR tried IN 1 .. last LOOP
        o := CASE WHEN o NOT BETWEEN 1 AND last THEN 1
                  WHEN o BETWEEN 2359296 AND 2359551 THEN 2359552
                  WHEN o BETWEEN 2384896 AND 2385151 THEN 2385152
                  WHEN o BETWEEN 3365888 AND 3366399 THEN 3366400
                  ELSE o END;
        IF NOT EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t AND ipv4 = '100.64.0.0'::inet + o)
           AND NOT EXISTS (SELECT 1 FROM nodes WHERE cluster_id = c AND tenant_id = t
                              AND ipv6 = 'fd7a:115c:a1e0::'::inet + o) THEN
            RETURN o;
        END IF;
        o := o + 1;
    END LOOP;
    RETURN NULL;
END $$;

GRANT EXECUTE ON FUNCTION free_name(text, bigint, bigint, text), free_offset(text, bigint, integer)
    TO hs_node, hs_admin;
