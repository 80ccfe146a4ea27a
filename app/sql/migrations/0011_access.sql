-- Who may call hs-acs: hashed tokens, and answers kept for callers that ask twice.

CREATE SEQUENCE api_token_ids;
CREATE TABLE api_tokens (
    id           bigint PRIMARY KEY DEFAULT nextval('api_token_ids'),
    prefix       text NOT NULL UNIQUE CHECK (prefix ~ '^[0-9a-f]{12}$'),
    hash         bytea NOT NULL CHECK (octet_length(hash) = 32),
    name         text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    scope        text NOT NULL CHECK (scope IN ('admin', 'tenant-admin', 'billing', 'read-only')),
    -- The one tenant that a tenant-admin's token is for.
    tenant_id    bigint REFERENCES tenants (tenant_id) ON DELETE CASCADE,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CHECK ((scope = 'tenant-admin') = (tenant_id IS NOT NULL))
);
CREATE INDEX api_tokens_tenant ON api_tokens (tenant_id);

-- `answer` is sealed under a key made from the caller's token: it may hold an auth key.
CREATE TABLE idempotent_answers (
    token_id    bigint NOT NULL REFERENCES api_tokens (id) ON DELETE CASCADE,
    key         text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL,
    status      integer,
    answer      bytea,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (token_id, key)
);
CREATE INDEX idempotent_answers_age ON idempotent_answers (started_at);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['api_tokens', 'idempotent_answers']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY wide ON %I TO hs_owner, hs_acs USING (true) WITH CHECK (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO hs_acs', t);
    END LOOP;
END $$;
GRANT USAGE ON SEQUENCE api_token_ids TO hs_acs;
