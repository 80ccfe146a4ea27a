"""The OpenAPI 3.1 document of operations, and its page for people. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from acs.api.operation import MAX_KEY_LENGTH, Operation
from app.api.records import CLUSTER_ID, PLAN_NAME, Problem

_PARAMETER = re.compile(r"\{(\w+)\}")
_REF = "#/components/schemas/{model}"
PROBLEMS = {
    "400": "The call cannot succeed as it stands.",
    "401": "The token is unknown, expired or revoked.",
    "403": "The token's scope does not permit this, or a rule refuses it.",
    "404": "Nothing of this name is there, or it is not the caller's to know.",
    "409": "It conflicts with what is there, or with another version of it.",
    "429": "Too many calls; see Retry-After.",
    "503": "Something this depends on does not answer now.",
}


_ID = {"type": "integer", "format": "int64", "minimum": 1, "maximum": 2**63 - 1}
#: What stands in a path, by its name; any other is a text.
_IN_PATHS: dict[str, dict[str, Any]] = {
    "tenant": _ID,
    "token": _ID,
    "cluster": {"type": "string", "pattern": CLUSTER_ID},
    "plan": {"type": "string", "pattern": PLAN_NAME},
}
_KEY = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": "^[\\x20-\\x7e]+$"}


def document(operations: Sequence[Operation[Any]], version: str) -> dict[str, Any]:
    """The whole description of the API."""
    records: set[type[BaseModel]] = {Problem}
    for operation in operations:
        records |= {r for r in (operation.answer, operation.body, operation.query) if r is not None}
    ordered = sorted(records, key=lambda record: record.__name__)
    _, definitions = models_json_schema([(record, "validation") for record in ordered], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, definitions)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hs-acs",
            "version": version,
            "summary": "Tenants, clusters, placement, quotas, usage and moves of a deployment.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _ref(record: type[BaseModel]) -> dict[str, str]:
    name = re.sub(r"[^a-zA-Z0-9.\-_]", "_", record.__name__)
    return {"$ref": _REF.format(model=name)}


def _operation(operation: Operation[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _IN_PATHS.get(name, {"type": "string"})}
        for name in _PARAMETER.findall(operation.path)
    ]
    if operation.query is not None:
        schema = operation.query.model_json_schema(ref_template=_REF)
        required = schema.get("required", [])
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": part}
            for name, part in schema.get("properties", {}).items()
        ]
    if operation.versioned and operation.method != "GET":
        parameters.append({"name": "If-Match", "in": "header", "schema": {"type": "string"}})
    if operation.method == "POST":
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": _KEY})
    content = {"application/json": {"schema": _ref(operation.answer)}}
    content |= {kind: {"schema": {"type": "string"}} for kind in operation.also}
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": list(operation.tags),
        "parameters": parameters,
        "responses": {
            **{
                str(status): {"description": "Done.", "content": content}
                for status in (operation.status, operation.or_status)
                if status is not None
            },
            **{
                status: {
                    "description": why,
                    "content": {"application/problem+json": {"schema": _ref(Problem)}},
                }
                for status, why in PROBLEMS.items()
            },
        },
        "security": [{"token": []}] if operation.needs else [],
    }
    if operation.body is not None:
        told["requestBody"] = {
            "required": any(field.is_required() for field in operation.body.model_fields.values()),
            "content": {"application/json": {"schema": _ref(operation.body)}},
        }
    return told


def _scopes(operation: Operation[Any]) -> str:
    return ", ".join(sorted(operation.needs)) or "no token"


def page(operations: Sequence[Operation[Any]], version: str) -> str:
    """The operations as a page: no script, nothing from elsewhere."""
    rows = "".join(
        f"<tr><td><code>{html.escape(o.method)}</code></td><td><code>{html.escape(o.path)}</code></td>"
        f"<td>{html.escape(o.summary)}</td><td>{html.escape(_scopes(o))}"
        "</td></tr>"
        for o in operations
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>hs-acs API</title>"
        "<style>body{font:16px/1.5 sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;"
        "border-bottom:1px solid #ccc;vertical-align:top}</style>"
        f"<h1>hs-acs {html.escape(version)}</h1><p>The machine-readable description is at "
        '<a href="/v1/openapi.json">/v1/openapi.json</a>. '
        "Tokens go into <code>Authorization: Bearer</code>.</p>"
        f"<table><tr><th>method<th>path<th>what it does<th>scope</tr>{rows}</table></html>"
    )
