-- Tables of the shared database. Runs as hs_owner with search_path = hs.
-- Keys and inner references lead with tenant_id (for ever), never with cluster_id (a placement).

CREATE TABLE deployment (
    key        text PRIMARY KEY,
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE clusters (
    cluster_id text PRIMARY KEY
        CONSTRAINT clusters_id_form CHECK (cluster_id ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$'),
    state      text NOT NULL DEFAULT 'active'
        CHECK (state IN ('joining', 'active', 'draining', 'drained', 'standby')),
    region     text NOT NULL DEFAULT '',
    labels     jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE leases (
    name          text PRIMARY KEY,
    holder        text NOT NULL DEFAULT '',
    epoch         bigint NOT NULL DEFAULT 0,
    pid           integer,
    backend_start timestamptz,
    renewed_at    timestamptz,
    expires_at    timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

CREATE TABLE instances (
    instance_id  text PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('node', 'acs')),
    cluster_id   text NOT NULL DEFAULT 'default',
    addr         text NOT NULL DEFAULT '',
    version      text NOT NULL DEFAULT '',
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX instances_cl ON instances (cluster_id);

CREATE SEQUENCE tenant_ids;
CREATE TABLE tenants (
    tenant_id   bigint PRIMARY KEY DEFAULT nextval('tenant_ids'),
    cluster_id  text NOT NULL DEFAULT 'default' REFERENCES clusters (cluster_id),
    name        text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    dns_label   text NOT NULL,
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'frozen', 'suspended', 'deleted')),
    is_home     boolean NOT NULL DEFAULT false,
    max_devices integer,
    max_users   integer,
    max_keys    integer,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tenants_name UNIQUE (name),
    CONSTRAINT tenants_dns_label UNIQUE (dns_label),
    CONSTRAINT tenants_placement UNIQUE (tenant_id, cluster_id)
);
CREATE INDEX tenants_cl ON tenants (cluster_id, tenant_id);
-- A home tenant never leaves its cluster, so there is one per cluster.
CREATE UNIQUE INDEX tenants_home ON tenants (cluster_id) WHERE is_home;

CREATE TABLE tenant_counters (
    tenant_id  bigint PRIMARY KEY,
    cluster_id text NOT NULL DEFAULT 'default',
    devices    integer NOT NULL DEFAULT 0 CHECK (devices >= 0),
    users      integer NOT NULL DEFAULT 0 CHECK (users >= 0),
    keys       integer NOT NULL DEFAULT 0 CHECK (keys >= 0),
    next_off   integer NOT NULL DEFAULT 1
) WITH (fillfactor = 50);

CREATE SEQUENCE user_ids;
CREATE TABLE users (
    tenant_id       bigint NOT NULL,
    cluster_id      text NOT NULL DEFAULT 'default',
    id              bigint NOT NULL DEFAULT nextval('user_ids'),
    name            text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    display_name    text NOT NULL DEFAULT '',
    email           text NOT NULL DEFAULT '',
    profile_pic_url text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT users_name UNIQUE (tenant_id, name)
);

CREATE SEQUENCE pre_auth_key_ids;
CREATE TABLE pre_auth_keys (
    tenant_id   bigint NOT NULL,
    cluster_id  text NOT NULL DEFAULT 'default',
    id          bigint NOT NULL DEFAULT nextval('pre_auth_key_ids'),
    prefix      text NOT NULL,
    hash        bytea NOT NULL CHECK (octet_length(hash) = 32),
    user_id     bigint,
    reusable    boolean NOT NULL DEFAULT false,
    ephemeral   boolean NOT NULL DEFAULT false,
    tags        text[] NOT NULL DEFAULT '{}',
    used        boolean NOT NULL DEFAULT false,
    uses        integer NOT NULL DEFAULT 0,
    revoked     boolean NOT NULL DEFAULT false,
    expiration  timestamptz CONSTRAINT pre_auth_keys_expiration CHECK (expiration > '2000-01-01'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT pre_auth_keys_prefix UNIQUE (tenant_id, prefix),
    CONSTRAINT pre_auth_keys_owner CHECK (user_id IS NOT NULL OR tags <> '{}'),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id)
);

CREATE SEQUENCE node_ids;
CREATE TABLE nodes (
    tenant_id       bigint NOT NULL,
    cluster_id      text NOT NULL DEFAULT 'default',
    id              bigint NOT NULL DEFAULT nextval('node_ids'),
    user_id         bigint,
    machine_key     bytea NOT NULL CHECK (octet_length(machine_key) = 32),
    node_key        bytea NOT NULL CHECK (octet_length(node_key) = 32),
    disco_key       bytea NOT NULL CHECK (octet_length(disco_key) = 32),
    ipv4            inet NOT NULL CHECK (family(ipv4) = 4 AND masklen(ipv4) = 32),
    ipv6            inet NOT NULL CHECK (family(ipv6) = 6 AND masklen(ipv6) = 128),
    hostname        text NOT NULL,
    given_name      text NOT NULL
        CONSTRAINT nodes_given_name_form CHECK (given_name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    register_method text NOT NULL DEFAULT 'auth_key',
    tags            text[] NOT NULL DEFAULT '{}',
    auth_key_id     bigint,
    ephemeral       boolean NOT NULL DEFAULT false,
    -- NULL is never; a zero time of a client must not get here (headscale #3199, #3284)
    expiry          timestamptz CONSTRAINT nodes_expiry CHECK (expiry > '2000-01-01'),
    capver          integer NOT NULL DEFAULT 0,
    host_info       json NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT nodes_ipv4 UNIQUE (tenant_id, ipv4),
    CONSTRAINT nodes_ipv6 UNIQUE (tenant_id, ipv6),
    CONSTRAINT nodes_given_name UNIQUE (tenant_id, given_name),
    CONSTRAINT nodes_node_key UNIQUE (tenant_id, node_key),
    CONSTRAINT nodes_owner CHECK ((user_id IS NULL) = (tags <> '{}')),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, id),
    FOREIGN KEY (tenant_id, auth_key_id) REFERENCES pre_auth_keys (tenant_id, id)
);
CREATE UNIQUE INDEX nodes_machine_owner ON nodes (tenant_id, machine_key, COALESCE(user_id, 0));
-- Looked up before a tenant or cluster is known: map requests, routing, relay admission.
CREATE INDEX nodes_by_node_key ON nodes (node_key);
CREATE INDEX nodes_by_machine_key ON nodes (machine_key);

CREATE TABLE node_state (
    tenant_id  bigint NOT NULL,
    cluster_id text NOT NULL DEFAULT 'default',
    node_id    bigint NOT NULL,
    endpoints  text[] NOT NULL DEFAULT '{}',
    home_derp  integer NOT NULL DEFAULT 0,
    online     boolean NOT NULL DEFAULT false,
    last_seen  timestamptz,
    PRIMARY KEY (tenant_id, node_id),
    FOREIGN KEY (tenant_id, node_id) REFERENCES nodes (tenant_id, id) ON DELETE CASCADE
) WITH (fillfactor = 70);

CREATE TABLE deleted_devices (
    tenant_id   bigint NOT NULL,
    cluster_id  text NOT NULL DEFAULT 'default',
    id          bigint NOT NULL,
    node_key    bytea NOT NULL,
    machine_key bytea NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX deleted_devices_by_node_key ON deleted_devices (node_key);

CREATE TABLE derp_regions (
    region_id  integer PRIMARY KEY CHECK (region_id BETWEEN 1 AND 65535),
    cluster_id text NOT NULL DEFAULT 'default' REFERENCES clusters (cluster_id),
    region     jsonb NOT NULL,
    CONSTRAINT derp_regions_cl UNIQUE (cluster_id)
);

CREATE SEQUENCE change_ids;
CREATE TABLE changes (
    cluster_id text NOT NULL,
    id         bigint NOT NULL DEFAULT nextval('change_ids'),
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tenant_id  bigint,
    kind       text NOT NULL,
    scope_key  text NOT NULL,
    origin     text NOT NULL DEFAULT '',
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (cluster_id, id)
);
CREATE INDEX changes_xid ON changes (cluster_id, xid);

CREATE SEQUENCE audit_ids;
CREATE TABLE audit_log (
    id         bigint PRIMARY KEY DEFAULT nextval('audit_ids'),
    cluster_id text NOT NULL DEFAULT 'default',
    tenant_id  bigint,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text NOT NULL,
    action     text NOT NULL,
    object     text NOT NULL,
    before     jsonb,
    after      jsonb
);
CREATE INDEX audit_log_cl ON audit_log (cluster_id, id);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tenant_counters', 'users', 'pre_auth_keys', 'nodes', 'node_state', 'deleted_devices']
    LOOP
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I FOREIGN KEY (tenant_id, cluster_id)'
            ' REFERENCES tenants (tenant_id, cluster_id) ON UPDATE CASCADE', t, t || '_placement');
        EXECUTE format('CREATE INDEX %I ON %I (cluster_id, tenant_id)', t || '_cl', t);
    END LOOP;
END $$;
