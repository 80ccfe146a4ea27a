"""HTTP/1.1 request heads, as far as a relay needs them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import BadRequest

#: Request line and header fields together.
MAX_HEAD_BYTES = 8 * 1024
MAX_HEADER_FIELDS = 64

END_OF_HEAD = b"\r\n\r\n"

_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[\x21-\x7e]{0,2000}) HTTP/1\.[01]", re.ASCII)
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Request:
    """Method, path without query, and header fields by lower-case name (the last one of a name wins)."""

    method: str
    path: str
    fields: Mapping[str, str]


def parse_head(head: bytes) -> Request:
    """A whole head, without the empty line at its end. Raises BadRequest."""
    lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadRequest("this is no HTTP/1.1 request", code="bad_head")
    if len(lines) - 1 > MAX_HEADER_FIELDS:
        raise BadRequest(f"a request may have {MAX_HEADER_FIELDS} header fields", code="bad_head")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, text = line.partition(":")
        if not colon or not _FIELD_NAME.fullmatch(name) or _FORBIDDEN.search(text):
            raise BadRequest("a header field is malformed", code="bad_head")
        fields[name.lower()] = text.strip(" \t")
    return Request(match[1], match[2].partition("?")[0], fields)
