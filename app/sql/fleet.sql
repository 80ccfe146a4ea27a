-- fleet_overview --
-- Every cluster with its owner and its counts.
-- $1 cluster_id or NULL for all, $2 instances older than this many seconds are gone, $3 expiring within seconds
SELECT c.cluster_id, (SELECT h.tenant_id FROM tenants h WHERE h.cluster_id = c.cluster_id AND h.is_home),
       c.state, COALESCE(l.holder, ''), COALESCE(l.epoch, 0),
       CASE WHEN l.expires_at > '-infinity' THEN extract(epoch FROM l.expires_at - now())::float8 END,
       (SELECT count(*) FROM instances i
         WHERE i.cluster_id = c.cluster_id AND i.heartbeat_at > now() - make_interval(secs => $2)),
       COALESCE(t.tenants, 0), COALESCE(t.users, 0), COALESCE(t.keys, 0), COALESCE(d.devices, 0),
       COALESCE(d.online, 0), COALESCE(d.expired, 0), COALESCE(d.expiring, 0),
       (SELECT count(*) FROM requests r WHERE r.cluster_id = c.cluster_id AND r.state IN ('queued', 'running')),
       c.max_devices, extract(epoch FROM now())::float8
  FROM clusters c
  LEFT JOIN leases l ON l.name = 'cluster:' || c.cluster_id
  LEFT JOIN (SELECT tc.cluster_id, count(*) AS tenants, sum(tc.users) AS users, sum(tc.keys) AS keys
               FROM tenant_counters tc GROUP BY tc.cluster_id) t ON t.cluster_id = c.cluster_id
  LEFT JOIN (SELECT n.cluster_id, count(*) AS devices,
                    count(*) FILTER (WHERE s.online) AS online,
                    count(*) FILTER (WHERE n.expiry <= now()) AS expired,
                    count(*) FILTER (WHERE n.expiry > now() AND n.expiry < now() + make_interval(secs => $3)) AS expiring
               FROM nodes n JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
              GROUP BY n.cluster_id) d ON d.cluster_id = c.cluster_id
 WHERE $1::text IS NULL OR c.cluster_id = $1
 ORDER BY c.cluster_id

-- fleet_rights --
-- The newest step of the schema, whether this session only reads, its role, and which rights a request lacks.
-- (no parameters)
SELECT (SELECT max(version) FROM schema_migrations), current_setting('transaction_read_only') = 'on',
       current_user::text,
       ARRAY(SELECT w.lacking
               FROM (VALUES ('INSERT on requests', has_table_privilege(to_regclass('requests'), 'INSERT')),
                            ('INSERT on audit_log', has_table_privilege(to_regclass('audit_log'), 'INSERT')),
                            ('USAGE of request_ids', has_sequence_privilege(to_regclass('request_ids'), 'USAGE')),
                            ('USAGE of audit_ids', has_sequence_privilege(to_regclass('audit_ids'), 'USAGE')),
                            ('EXECUTE of is_cluster', has_function_privilege(to_regprocedure('is_cluster(text)'),
                                                                             'EXECUTE'))
                    ) AS w (lacking, granted)
              WHERE w.granted IS NOT TRUE)

-- fleet_recent --
-- The newest lines of the audit log.
-- $1 cluster_id or NULL for all, $2 limit
SELECT id, cluster_id, extract(epoch FROM at)::float8, actor, action, object
  FROM audit_log
 WHERE $1::text IS NULL OR cluster_id = $1
 ORDER BY id DESC LIMIT $2

-- fleet_history --
-- What was done to one object, newest first.
-- $1 cluster_id or NULL for any, $2 object, $3 limit
SELECT id, cluster_id, extract(epoch FROM at)::float8, actor, action, object, COALESCE(before::text, ''),
       COALESCE(after::text, '')
  FROM audit_log
 WHERE ($1::text IS NULL OR cluster_id = $1) AND object = $2
 ORDER BY id DESC LIMIT $3

-- fleet_events --
-- What became of one device, newest first: when it came and went, changes of it, rebuilds of its netmap.
-- $1 cluster_id, $2 tenant_id, $3 device_id, $4 limit, $5 changes and requests of its cluster to look through
(SELECT extract(epoch FROM p.at)::float8 AS at, CASE WHEN p.online THEN 'online' ELSE 'offline' END AS event,
        p.cluster_id AS origin, '' AS error
   FROM presence p WHERE p.tenant_id = $2 AND p.node_id = $3 ORDER BY p.at DESC LIMIT $4)
UNION ALL
(SELECT extract(epoch FROM c.at)::float8, 'change of ' || c.kind, c.origin, ''
   FROM (SELECT * FROM changes h WHERE h.cluster_id = $1 ORDER BY h.id DESC LIMIT $5) c
  WHERE c.tenant_id = $2 AND c.scope_key = 'device:' || $3::bigint ORDER BY c.id DESC LIMIT $4)
UNION ALL
(SELECT extract(epoch FROM r.requested_at)::float8, 'rebuild ' || r.state, r.requested_by, COALESCE(r.error, '')
   FROM (SELECT * FROM requests q WHERE q.cluster_id = $1 ORDER BY q.id DESC LIMIT $5) r
  WHERE r.tenant_id = $2 AND r.kind = 'netmap_rebuild' AND r.args ->> 'scope' = 'device:' || $3::bigint
  ORDER BY r.id DESC LIMIT $4)
 ORDER BY 1 DESC LIMIT $4

-- fleet_tenants --
-- Tenants by cluster, home tenants first.
-- $1 cluster_id or NULL for all, $2 limit
SELECT cluster_id, tenant_id, name, is_home
  FROM tenants
 WHERE $1::text IS NULL OR cluster_id = $1
 ORDER BY cluster_id, is_home DESC, name LIMIT $2

-- fleet_find_user --
-- The id of a user by name.
-- $1 cluster_id, $2 tenant_id, $3 name
SELECT id FROM users WHERE cluster_id = $1 AND tenant_id = $2 AND name = $3

-- fleet_names --
-- Clusters, tenants, users and devices whose names begin with one of some words, the shortest of each kind first.
-- $1 cluster_id or NULL, $2 words, $3 limit of each kind, $4 name of a tenant or NULL
WITH word AS MATERIALIZED (SELECT DISTINCT w FROM unnest($2::text[]) AS w)
(SELECT 'cluster' AS kind, c.cluster_id, 0::bigint AS tenant_id, 0::bigint AS id, c.cluster_id AS name, '' AS tenant
   FROM clusters c
  WHERE ($1::text IS NULL OR c.cluster_id = $1) AND EXISTS (SELECT 1 FROM word WHERE starts_with(lower(c.cluster_id), w))
  ORDER BY char_length(c.cluster_id), c.cluster_id LIMIT $3)
UNION ALL
(SELECT 'tenant', t.cluster_id, t.tenant_id, t.tenant_id, t.name, t.name
   FROM tenants t
  WHERE ($1::text IS NULL OR t.cluster_id = $1) AND ($4::text IS NULL OR t.name = $4)
    AND EXISTS (SELECT 1 FROM word WHERE starts_with(lower(t.name), w))
  ORDER BY char_length(t.name), t.name LIMIT $3)
-- One probe of an index for each tenant, where the database has texts in the order of their code points: only then
-- all that begin alike stand together. The planner knows whether it has, and drops one side of the OR.
UNION ALL
(SELECT 'user', t.cluster_id, t.tenant_id, u.id, u.name, t.name
   FROM tenants t CROSS JOIN word CROSS JOIN LATERAL (
        SELECT x.id, x.name FROM users x
         WHERE x.tenant_id = t.tenant_id AND starts_with(x.name, w)
           AND ('b'::text < 'C'::text OR (x.name >= w AND x.name <= w || chr(1114111)))
         ORDER BY x.name LIMIT $3) u
  WHERE ($1::text IS NULL OR t.cluster_id = $1) AND ($4::text IS NULL OR t.name = $4)
  ORDER BY char_length(u.name), u.name, t.tenant_id LIMIT $3)
UNION ALL
(SELECT 'device', t.cluster_id, t.tenant_id, d.id, d.name, t.name
   FROM tenants t CROSS JOIN word CROSS JOIN LATERAL (
        SELECT n.id, n.given_name AS name FROM nodes n
         WHERE n.tenant_id = t.tenant_id AND starts_with(n.given_name, w)
           AND ('b'::text < 'C'::text OR (n.given_name >= w AND n.given_name <= w || chr(1114111)))
         ORDER BY n.given_name LIMIT $3) d
  WHERE ($1::text IS NULL OR t.cluster_id = $1) AND ($4::text IS NULL OR t.name = $4)
  ORDER BY char_length(d.name), d.name, t.tenant_id LIMIT $3)

-- fleet_devices --
-- One window of devices. Planned anew for its values: what is NULL or not asked for costs neither a test nor a join.
-- $1 cluster_id or NULL, $2 terms, $3 sort, $4 descending, $5 text, $6 number, $7 tenant_id, $8 id to start after, $9 limit, $10 patterns by field, $11 which are negated, $12 comparisons by field, $13 their numbers
WITH term AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($2::text::jsonb)
        AS x (field text, op text, patterns text[], number float8, negated boolean)
), matching AS MATERIALIZED (
    SELECT n.tenant_id, n.id,
           (CASE $3::text WHEN 'name' THEN n.given_name
                WHEN 'user' THEN COALESCE(lower(u.name), array_to_string(n.tags, ' '))
                WHEN 'tenant' THEN t.name WHEN 'cluster' THEN n.cluster_id
                WHEN 'os' THEN COALESCE(lower(n.host_info ->> 'OS'), '')
                WHEN 'version' THEN COALESCE(n.host_info ->> 'IPNVersion', '')
                WHEN 'state' THEN CASE WHEN n.expiry <= now() THEN 'expired' WHEN s.online THEN 'online' ELSE 'offline' END
                ELSE '' END) COLLATE "C" AS text_key,
           (CASE $3::text WHEN 'id' THEN n.id WHEN 'ip' THEN n.ipv4 - '0.0.0.0'::inet
                WHEN 'seen' THEN CASE WHEN s.online THEN '-Infinity'
                                      ELSE COALESCE(-extract(epoch FROM s.last_seen), 'Infinity') END
                WHEN 'expires' THEN COALESCE(extract(epoch FROM n.expiry), 'Infinity')
                ELSE 0 END)::float8 AS number_key
      FROM nodes n
      LEFT JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
      LEFT JOIN tenants t ON t.tenant_id = n.tenant_id
      LEFT JOIN users u ON u.tenant_id = n.tenant_id AND u.id = n.user_id
     WHERE ($1::text IS NULL OR n.cluster_id = $1)
       AND (($10::text[])[1][1] IS NULL OR COALESCE(n.given_name LIKE ANY (($10::text[])[1:1]) OR lower(n.hostname) LIKE ANY (($10::text[])[1:1]) OR COALESCE(lower(u.name) LIKE ANY (($10::text[])[1:1]), false) OR host(n.ipv4) LIKE ANY (($10::text[])[1:1]) OR host(n.ipv6) LIKE ANY (($10::text[])[1:1]) OR EXISTS (SELECT 1 FROM unnest(n.tags) v WHERE lower(v) LIKE ANY (($10::text[])[1:1])), false) <> ($11::boolean[])[1])
       AND (($10::text[])[2][1] IS NULL OR COALESCE(n.given_name LIKE ANY (($10::text[])[2:2]) OR lower(n.hostname) LIKE ANY (($10::text[])[2:2]), false) <> ($11::boolean[])[2])
       AND (($10::text[])[3][1] IS NULL OR COALESCE(lower(u.name) LIKE ANY (($10::text[])[3:3]), false) <> ($11::boolean[])[3])
       AND (($10::text[])[4][1] IS NULL OR COALESCE(EXISTS (SELECT 1 FROM unnest(n.tags) v WHERE lower(v) LIKE ANY (($10::text[])[4:4])), false) <> ($11::boolean[])[4])
       AND (($10::text[])[5][1] IS NULL OR COALESCE(lower(n.host_info ->> 'OS') LIKE ANY (($10::text[])[5:5]), false) <> ($11::boolean[])[5])
       AND (($10::text[])[6][1] IS NULL OR COALESCE(lower(n.host_info ->> 'IPNVersion') LIKE ANY (($10::text[])[6:6]), false) <> ($11::boolean[])[6])
       AND (($10::text[])[7][1] IS NULL OR COALESCE(host(n.ipv4) LIKE ANY (($10::text[])[7:7]) OR host(n.ipv6) LIKE ANY (($10::text[])[7:7]), false) <> ($11::boolean[])[7])
       AND (($10::text[])[8][1] IS NULL OR COALESCE((CASE WHEN n.expiry <= now() THEN 'expired' WHEN s.online THEN 'online' ELSE 'offline' END) LIKE ANY (($10::text[])[8:8]), false) <> ($11::boolean[])[8])
       AND (($10::text[])[9][1] IS NULL OR COALESCE(lower(n.cluster_id) LIKE ANY (($10::text[])[9:9]), false) <> ($11::boolean[])[9])
       AND (($10::text[])[10][1] IS NULL OR COALESCE(lower(t.name) LIKE ANY (($10::text[])[10:10]), false) <> ($11::boolean[])[10])
       AND (($12::text[])[1] IS NULL OR COALESCE(CASE ($12::text[])[1] WHEN 'lt' THEN n.id < ($13::float8[])[1]
                WHEN 'gt' THEN n.id > ($13::float8[])[1] ELSE n.id = ($13::float8[])[1] END, false))
       AND (($12::text[])[2] IS NULL OR COALESCE(CASE ($12::text[])[2] WHEN 'lt' THEN n.auth_key_id < ($13::float8[])[2]
                WHEN 'gt' THEN n.auth_key_id > ($13::float8[])[2] ELSE n.auth_key_id = ($13::float8[])[2] END, false))
       AND (($12::text[])[3] IS NULL OR COALESCE(CASE ($12::text[])[3] WHEN 'lt' THEN CASE WHEN s.online THEN 0 ELSE COALESCE(extract(epoch FROM now() - s.last_seen), 'Infinity') END::float8 < ($13::float8[])[3]
                WHEN 'gt' THEN CASE WHEN s.online THEN 0 ELSE COALESCE(extract(epoch FROM now() - s.last_seen), 'Infinity') END::float8 > ($13::float8[])[3] ELSE CASE WHEN s.online THEN 0 ELSE COALESCE(extract(epoch FROM now() - s.last_seen), 'Infinity') END::float8 = ($13::float8[])[3] END, false))
       AND (($12::text[])[4] IS NULL OR COALESCE(CASE ($12::text[])[4] WHEN 'lt' THEN COALESCE(extract(epoch FROM n.expiry - now()), 'Infinity')::float8 < ($13::float8[])[4]
                WHEN 'gt' THEN COALESCE(extract(epoch FROM n.expiry - now()), 'Infinity')::float8 > ($13::float8[])[4] ELSE COALESCE(extract(epoch FROM n.expiry - now()), 'Infinity')::float8 = ($13::float8[])[4] END, false))
       AND ($2::text = '[]' OR NOT EXISTS (
           SELECT 1 FROM term WHERE term.negated = CASE term.op
               WHEN 'like' THEN EXISTS (
                   SELECT 1 FROM unnest(CASE term.field
                       WHEN 'name' THEN ARRAY[n.given_name, n.hostname]
                       WHEN 'user' THEN ARRAY[u.name] WHEN 'tag' THEN n.tags
                       WHEN 'os' THEN ARRAY[n.host_info ->> 'OS']
                       WHEN 'version' THEN ARRAY[n.host_info ->> 'IPNVersion']
                       WHEN 'ip' THEN ARRAY[host(n.ipv4), host(n.ipv6)]
                       WHEN 'state' THEN ARRAY[CASE WHEN n.expiry <= now() THEN 'expired' WHEN s.online THEN 'online' ELSE 'offline' END]
                       WHEN 'cluster' THEN ARRAY[n.cluster_id] WHEN 'tenant' THEN ARRAY[t.name]
                       WHEN 'any' THEN n.tags || ARRAY[n.given_name, n.hostname, u.name, host(n.ipv4), host(n.ipv6)]
                       END) AS v WHERE lower(v) LIKE ANY (term.patterns))
               ELSE COALESCE((SELECT CASE term.op WHEN 'lt' THEN w < term.number WHEN 'gt' THEN w > term.number
                                                  ELSE w = term.number END
                       FROM (SELECT (CASE term.field WHEN 'id' THEN n.id WHEN 'key' THEN n.auth_key_id
                           WHEN 'seen' THEN CASE WHEN s.online THEN 0
                                ELSE COALESCE(extract(epoch FROM now() - s.last_seen), 'Infinity') END
                           WHEN 'expires' THEN COALESCE(extract(epoch FROM n.expiry - now()), 'Infinity')
                           END)::float8 AS w) number_of), false)
               END))
), picked AS (
    SELECT m.* FROM matching m
     WHERE $8::bigint IS NULL
        OR CASE WHEN $4::boolean THEN (m.text_key, m.number_key, m.tenant_id, m.id)
                     < ($5::text, $6::float8, $7::bigint, $8::bigint)
                ELSE (m.text_key, m.number_key, m.tenant_id, m.id) > ($5::text, $6::float8, $7::bigint, $8::bigint) END
     ORDER BY CASE WHEN NOT $4::boolean THEN m.text_key END, CASE WHEN $4::boolean THEN m.text_key END DESC,
              CASE WHEN NOT $4::boolean THEN m.number_key END, CASE WHEN $4::boolean THEN m.number_key END DESC,
              CASE WHEN NOT $4::boolean THEN m.tenant_id END, CASE WHEN $4::boolean THEN m.tenant_id END DESC,
              CASE WHEN NOT $4::boolean THEN m.id END, CASE WHEN $4::boolean THEN m.id END DESC
     LIMIT $9
)
SELECT (SELECT count(*) FROM matching) AS total,
       (SELECT count(*) FROM matching m WHERE $8::bigint IS NOT NULL
           AND CASE WHEN $4::boolean THEN (m.text_key, m.number_key, m.tenant_id, m.id)
                         >= ($5::text, $6::float8, $7::bigint, $8::bigint)
                    ELSE (m.text_key, m.number_key, m.tenant_id, m.id)
                         <= ($5::text, $6::float8, $7::bigint, $8::bigint) END) AS before,
       extract(epoch FROM now())::float8 AS now,
       r.*
  FROM (SELECT 1) AS always
  LEFT JOIN (
    SELECT p.text_key, p.number_key, n.cluster_id, n.tenant_id, t.name AS tenant, n.id, n.given_name, n.hostname,
           n.user_id, COALESCE(u.name, '') AS user_name, n.tags, host(n.ipv4), host(n.ipv6),
           COALESCE(n.host_info ->> 'OS', ''), COALESCE(n.host_info ->> 'IPNVersion', ''), s.online,
           extract(epoch FROM s.last_seen)::float8, extract(epoch FROM n.expiry)::float8,
           extract(epoch FROM n.created_at)::float8, n.ephemeral, n.auth_key_id, n.register_method, n.capver,
           s.home_derp, s.endpoints, encode(n.node_key, 'hex'), encode(n.machine_key, 'hex')
      FROM picked p
      JOIN nodes n ON n.tenant_id = p.tenant_id AND n.id = p.id
      JOIN node_state s ON s.tenant_id = n.tenant_id AND s.node_id = n.id
      JOIN tenants t ON t.tenant_id = n.tenant_id
      LEFT JOIN users u ON u.tenant_id = n.tenant_id AND u.id = n.user_id
  ) r ON true
 ORDER BY CASE WHEN NOT $4::boolean THEN r.text_key END, CASE WHEN $4::boolean THEN r.text_key END DESC,
          CASE WHEN NOT $4::boolean THEN r.number_key END, CASE WHEN $4::boolean THEN r.number_key END DESC,
          CASE WHEN NOT $4::boolean THEN r.tenant_id END, CASE WHEN $4::boolean THEN r.tenant_id END DESC,
          CASE WHEN NOT $4::boolean THEN r.id END, CASE WHEN $4::boolean THEN r.id END DESC

-- fleet_window --
-- One window over a list (in the place of LISTED), ordered by its columns, and filtered by them or their `_name`.
-- $1 cluster_id or NULL, $2 terms, $3 sort, $4 descending, $5 text, $6 number, $7 tenant_id, $8 id to start after, $9 limit
WITH term AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($2::text::jsonb)
        AS x (field text, op text, patterns text[], number float8, negated boolean)
), listed AS (
    SELECT 0::bigint AS tenant_id, 0::bigint AS id WHERE $1::text IS NULL AND false -- LISTED
), matching AS MATERIALIZED (
    SELECT l.tenant_id, l.id, j.j,
           (CASE jsonb_typeof(k.v) WHEN 'string' THEN lower(k.v #>> '{}') ELSE '' END) COLLATE "C" AS text_key,
           (CASE jsonb_typeof(k.v) WHEN 'number' THEN (k.v #>> '{}')::float8 WHEN 'string' THEN 0
                 WHEN 'boolean' THEN (k.v #>> '{}')::boolean::int ELSE 'Infinity' END)::float8 AS number_key
      FROM listed l
     CROSS JOIN LATERAL (SELECT to_jsonb(l) AS j) j
     CROSS JOIN LATERAL (SELECT j.j -> $3::text AS v) k
     WHERE NOT EXISTS (
           SELECT 1 FROM term
            CROSS JOIN LATERAL (SELECT CASE term.field WHEN 'any' THEN j.j -> 'words'
                       ELSE COALESCE(j.j -> ('_' || term.field), j.j -> term.field) END AS x) f
            WHERE term.negated = CASE term.op
               WHEN 'like' THEN EXISTS (
                    SELECT 1 FROM jsonb_array_elements_text(CASE jsonb_typeof(f.x) WHEN 'array' THEN f.x
                                                             WHEN 'string' THEN jsonb_build_array(f.x)
                                                             ELSE '[]' END) AS e (word)
                     WHERE lower(e.word) LIKE ANY (term.patterns))
               ELSE COALESCE(CASE term.op WHEN 'lt' THEN (f.x #>> '{}')::float8 < term.number
                                          WHEN 'gt' THEN (f.x #>> '{}')::float8 > term.number
                                          ELSE (f.x #>> '{}')::float8 = term.number END, false)
               END)
), picked AS (
    SELECT m.* FROM matching m
     WHERE $8::bigint IS NULL
        OR CASE WHEN $4::boolean THEN (m.text_key, m.number_key, m.tenant_id, m.id)
                     < ($5::text, $6::float8, $7::bigint, $8::bigint)
                ELSE (m.text_key, m.number_key, m.tenant_id, m.id) > ($5::text, $6::float8, $7::bigint, $8::bigint) END
     ORDER BY CASE WHEN NOT $4::boolean THEN m.text_key END, CASE WHEN $4::boolean THEN m.text_key END DESC,
              CASE WHEN NOT $4::boolean THEN m.number_key END, CASE WHEN $4::boolean THEN m.number_key END DESC,
              CASE WHEN NOT $4::boolean THEN m.tenant_id END, CASE WHEN $4::boolean THEN m.tenant_id END DESC,
              CASE WHEN NOT $4::boolean THEN m.id END, CASE WHEN $4::boolean THEN m.id END DESC
     LIMIT $9
)
SELECT (SELECT count(*) FROM matching) AS total,
       (SELECT count(*) FROM matching m WHERE $8::bigint IS NOT NULL
           AND CASE WHEN $4::boolean THEN (m.text_key, m.number_key, m.tenant_id, m.id)
                         >= ($5::text, $6::float8, $7::bigint, $8::bigint)
                    ELSE (m.text_key, m.number_key, m.tenant_id, m.id)
                         <= ($5::text, $6::float8, $7::bigint, $8::bigint) END) AS before,
       extract(epoch FROM now())::float8 AS now,
       p.text_key, p.number_key, p.tenant_id, p.id, p.j::text
  FROM (SELECT 1) AS always
  LEFT JOIN picked p ON true
 ORDER BY CASE WHEN NOT $4::boolean THEN p.text_key END, CASE WHEN $4::boolean THEN p.text_key END DESC,
          CASE WHEN NOT $4::boolean THEN p.number_key END, CASE WHEN $4::boolean THEN p.number_key END DESC,
          CASE WHEN NOT $4::boolean THEN p.tenant_id END, CASE WHEN $4::boolean THEN p.tenant_id END DESC,
          CASE WHEN NOT $4::boolean THEN p.id END, CASE WHEN $4::boolean THEN p.id END DESC

-- fleet_alarms --
-- Open alarms, the worst first, then the newest; what was acknowledged comes last.
-- $1 cluster_id or NULL, $2 limit
SELECT id, cluster_id, severity, rule, object, text, extract(epoch FROM raised_at)::float8,
       COALESCE(acknowledged_by, ''), extract(epoch FROM acknowledged_at)::float8
  FROM alarms
 WHERE cleared_at IS NULL AND ($1::text IS NULL OR cluster_id = $1 OR cluster_id = '')
 ORDER BY acknowledged_at IS NOT NULL, array_position(ARRAY['critical', 'warning', 'notice'], severity), id DESC
 LIMIT $2

-- fleet_load --
-- Connected devices of each cluster; changed devices, frames and bytes a second; by minutes before this one.
-- $1 cluster_id or NULL, $2 minutes
SELECT s.cluster_id,
       (extract(epoch FROM date_trunc('minute', now(), 'UTC') - s.minute) / 60)::int, sum(s.connected)::bigint,
       sum(s.changes / s.span_s)::float8, sum(s.frames / s.span_s)::float8, sum(s.bytes / s.span_s)::float8
  FROM load_samples s
 WHERE s.minute > now() - $2 * interval '1 minute' AND s.cluster_id <> '' AND s.connected IS NOT NULL
   AND ($1::text IS NULL OR s.cluster_id = $1)
 GROUP BY 1, 2
