"""The dialect of policy files: what is taken."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.policy.hujson import MAX_DEPTH, MAX_POLICY_CHARS, Place, parse

TAKEN = [
    ("{}", {}),
    (" \t\r\n[ ] ", []),
    ("[1, -2, 0, 3.5, 1e2, -0.25E-1]", [1, -2, 0, 3.5, 100.0, -0.025]),
    ("[true, false, null]", [True, False, None]),
    ("// first\n[1, // one\n 2, /* two */ 3 /**/]// last", [1, 2, 3]),
    ("/* a // b */[/* [ */]", []),
    ('["// no comment", "/* nor this */"]', ["// no comment", "/* nor this */"]),
    ("[1, 2,]", [1, 2]),
    ("[1, 2, // after the comma\n]", [1, 2]),
    ('{"a": 1,}', {"a": 1}),
    ('{"a": {"b": [{}]}}', {"a": {"b": [{}]}}),
    (r'"\"\\\/\b\f\n\r\t\u00e9"', '"\\/\b\f\n\r\té'),
    (r'"\ud83d\ude00"', "\N{GRINNING FACE}"),
    ('"\N{GRINNING FACE} ü"', "\N{GRINNING FACE} ü"),
    ('{"": 1, "\\u0000": 2}', {"": 1, "\0": 2}),
    ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
    (" " * (MAX_POLICY_CHARS - 2) + "{}", {}),
]


@pytest.mark.parametrize(("text", "value"), TAKEN, ids=lambda v: repr(v)[:40])
def test_taken(text, value):
    found = parse(text).plain()
    if value is not None:
        assert found == value


def test_every_value_knows_its_place():
    root = parse('// head\n{"a": [1,\n  "b"],\r\n\t"c": /* x */ {}}')
    assert root.place == Place(2, 1)
    assert root.names == {"a": Place(2, 2), "c": Place(4, 2)}
    assert root.value["a"].place == Place(2, 7)
    assert [item.place for item in root.value["a"].value] == [Place(2, 8), Place(3, 3)]
    assert root.value["c"].place == Place(4, 15)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_plain_json_is_read_as_json_reads_it(value, indent, ascii_only):
    assert parse(json.dumps(value, indent=indent, ensure_ascii=ascii_only)).plain() == value
