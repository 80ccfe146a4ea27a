-- What hs-acs knows of clusters and tenants: how much fits, what is wished for, plans, and tokens to join with.

ALTER TABLE clusters
    ADD COLUMN weight      double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    ADD COLUMN max_tenants integer CHECK (max_tenants >= 0),
    ADD COLUMN max_devices integer CHECK (max_devices >= 0),
    ADD COLUMN version     bigint NOT NULL DEFAULT 1;

-- The URL that clients of an instance are told to use.
ALTER TABLE instances ADD COLUMN login_url text NOT NULL DEFAULT '';

CREATE TABLE plans (
    name        text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,47}$'),
    max_devices integer CHECK (max_devices >= 0),
    max_users   integer CHECK (max_users >= 0),
    max_keys    integer CHECK (max_keys >= 0),
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE tenants
    ADD COLUMN plan       text REFERENCES plans (name),
    ADD COLUMN region     text NOT NULL DEFAULT '',
    ADD COLUMN labels     jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN dedicated  boolean NOT NULL DEFAULT false,
    ADD COLUMN pinned     text,
    ADD COLUMN deleted_at timestamptz,
    ADD COLUMN version    bigint NOT NULL DEFAULT 1;

-- A token that lets a device's user in, by its tenant's name: the tenant may be placed by its first use.
CREATE SEQUENCE join_token_ids;
CREATE TABLE join_tokens (
    id         bigint PRIMARY KEY DEFAULT nextval('join_token_ids'),
    prefix     text NOT NULL UNIQUE CHECK (prefix ~ '^[0-9a-f]{12}$'),
    hash       bytea NOT NULL CHECK (octet_length(hash) = 32),
    tenant     text NOT NULL CHECK (char_length(tenant) BETWEEN 1 AND 255),
    user_name  text NOT NULL CHECK (char_length(user_name) BETWEEN 1 AND 255),
    uses_left  integer CHECK (uses_left >= 0),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['plans', 'join_tokens']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY wide ON %I TO hs_owner, hs_acs USING (true) WITH CHECK (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO hs_acs', t);
    END LOOP;
    CREATE POLICY watch ON plans FOR SELECT TO hs_console USING (true);
    GRANT SELECT ON plans TO hs_console;
END $$;
GRANT USAGE ON SEQUENCE join_token_ids TO hs_acs;
