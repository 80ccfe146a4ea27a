"""What the schema and the statements promise, read from the catalogue and the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import asyncpg
import pytest
from db_helpers import as_role

from app.db.setup import Database
from app.sql import QUERIES

ROOT = Path(__file__).resolve().parents[2]

#: Tables with a cluster_id, and how they differ from a table of tenants' rows.
WITHOUT_TENANT = {"clusters", "instances", "derp_regions", "changes", "audit_log", "requests", "usage"} | {
    # Who came and went is written with node_state, which is guarded, and stays with its cluster.
    *("load_samples", "alarms", "presence"),
}
WITHOUT_GUARD = {"clusters", "instances", "changes", "load_samples", "alarms", "presence"}
#: Deployment-wide by design: the check for leaks itself, and the union of relay regions.
WIDE_STATEMENTS = {"scope_check", "list_regions", "get_request"} | {
    # hs-acs is in charge of all clusters: its role sees them all, and each of its changes names a tenant.
    *("cluster_loads", "acs_tenants", "describe_tenant", "update_tenant", "apply_plan"),
    *("admit_joining_clusters", "tenants_to_purge", "planning_seats", "tenant_place", "count_back"),
    *("end_draining", "lost_clusters", "read_usage", "trim_usage", "month_usage", "end_override"),
    # Requests to the deployment carry no cluster.
    *("claim_acs_request", "finish_acs_request", "invoices_ready"),
    # A plan moves tenants between clusters: those of one cluster have steps in others.
    "fleet_list_rebalance",
    # Health is judged over all clusters, by the leading hs-acs.
    # The console counts how far a change would reach, in a role that sees all clusters.
    *(
        "fleet_blast_devices",
        "fleet_blast_routes",
        "fleet_blast_users",
        "fleet_blast_keys",
        "fleet_blast_tenants",
        "fleet_blast_tag",
    ),
    *("fleet_blast_clusters", "fleet_blast_plan"),
    *("health_facts", "open_alarms", "keep_alarms", "acknowledge_alarm", "trim_alarms"),
}


async def test_tables_with_a_cluster(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    tables = await conn.fetch(
        """
        SELECT c.relname AS name, c.relrowsecurity AND c.relforcerowsecurity AS forced,
               a.attnotnull AS filled,
               ARRAY(SELECT p.polname::text FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
               EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'a_guard')
                   AS guarded,
               EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'
                          AND k.confrelid = 'hs.tenants'::regclass AND k.confupdtype = 'c') AS placed,
               EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum)
                   AS indexed,
               (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                 WHERE d.adrelid = c.oid AND d.adnum = a.attnum) AS standard
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'cluster_id'
         WHERE c.relnamespace = 'hs'::regnamespace AND c.relkind = 'r'
        """
    )
    await conn.close()
    assert {row["name"] for row in tables} >= {"nodes", "node_state", "users", "pre_auth_keys", "tenants"}
    for row in tables:
        name = row["name"]
        assert row["forced"], name
        assert row["filled"], name
        assert row["indexed"], name
        assert {"scoped", "wide", "watch"} <= set(row["policies"]), name
        assert row["guarded"] == (name not in WITHOUT_GUARD), name
        assert row["placed"] == (name not in WITHOUT_TENANT | {"tenants"}), name
        if name not in {"clusters", "changes"}:
            assert row["standard"] == "'default'::text", name


async def test_definer_functions_pin_their_search_path_and_are_not_public(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    functions = await conn.fetch(
        "SELECT proname, prosecdef, proconfig, proacl::text AS acl FROM pg_proc"
        " WHERE pronamespace = 'hs'::regnamespace"
    )
    await conn.close()
    assert len(functions) > 20
    for row in functions:
        assert "search_path=hs, pg_temp" in (row["proconfig"] or []), row["proname"]
        assert row["acl"] is not None, row["proname"]
        assert not re.search(r"[{,]=X", row["acl"]), f"{row['proname']} is executable by everybody"


#: What stays of a tenant that is purged; all tables of usage do. Presence goes by a trigger on tenants.
KEPT_OF_A_TENANT = {"audit_log", "changes", "presence"}


async def test_a_purge_leaves_no_table_out(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    text = await conn.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'purge_tenant'")
    tables = await conn.fetch(
        "SELECT c.relname AS name,"
        "       EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'"
        "                  AND k.confdeltype = 'c') AS follows"
        "  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'"
        " WHERE c.relnamespace = 'hs'::regnamespace AND c.relkind = 'r'"
    )
    await conn.close()
    assert len(tables) > 10
    for name, follows in tables:
        if name not in KEPT_OF_A_TENANT and not name.startswith("usage"):
            told = f"{name}: purge_tenant must delete its rows, or KEPT_OF_A_TENANT name it"
            assert follows or f"DELETE FROM {name} WHERE tenant_id = t;" in text, told


async def test_what_roles_may(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    grants = await conn.fetch(
        "SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants"
        " WHERE table_schema = 'hs' AND grantee LIKE 'hs\\_%' AND grantee <> 'hs_owner'"
    )
    await conn.close()
    rights = {(g["grantee"], g["table_name"], g["privilege_type"]) for g in grants}
    console = {(table, right) for role, table, right in rights if role == "hs_console" and right != "SELECT"}
    assert console == {("audit_log", "INSERT"), ("requests", "INSERT")}
    assert not {row for row in rights if row[2] in ("TRUNCATE", "REFERENCES", "TRIGGER")}
    assert not {
        row
        for row in rights
        if row[0] == "hs_node" and row[1] in ("changes", "leases") and row[2] != "SELECT"
    }
    assert ("hs_console", "deployment", "SELECT") not in rights


async def test_every_statement_prepares(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    for name, text in QUERIES.items():
        try:
            await conn.prepare(text)
        except asyncpg.PostgresError as error:
            pytest.fail(f"{name}: {error}")
    await conn.close()


async def test_every_statement_on_scoped_tables_names_the_cluster(prepared: Database) -> None:
    conn = await as_role(prepared.dsn, "hs_owner")
    scoped = {
        row[0]
        for row in await conn.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'hs'::regnamespace AND c.relkind = 'r' AND a.attname = 'cluster_id'"
        )
    }
    await conn.close()
    seen = 0
    for name, text in QUERIES.items():
        body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
        tables = set(re.findall(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)", body)) & scoped
        if not tables or name in WIDE_STATEMENTS:
            continue
        seen += 1
        inserted = re.search(r"INSERT INTO \w+ \(cluster_id,[^)]*\)\s*VALUES \(\$1,", body)
        assert inserted or re.search(r"\bcluster_id (=|<>) \$1\b", body), f"{name} does not name the cluster"
    assert seen > 15


def test_every_statement_is_described_and_used_by_one_function() -> None:
    uses: dict[str, list[str]] = {name: [] for name in QUERIES}
    for file in sorted((ROOT / "app").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Subscript)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "QUERIES"
                    and isinstance(node.slice, ast.Constant)
                ):
                    uses[node.slice.value].append(f"{file.name}:{function.name}")
    for name, places in uses.items():
        assert len(set(places)) == 1, f"{name} is used by {places}"
    for name, text in QUERIES.items():
        lines = text.splitlines()
        assert lines[0].startswith("-- "), name
        wanted = sorted({int(n) for n in re.findall(r"\$(\d+)", "\n".join(lines[2:]))})
        told = sorted({int(n) for n in re.findall(r"\$(\d+)", lines[1])})
        assert wanted == told, name
