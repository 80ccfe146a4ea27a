"""The filter language: what is understood, what is refused and where, and what the database is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fleet import Term
from console.query import (
    DEVICE_FIELDS,
    MAX_ALTERNATIVES,
    MAX_CONDITIONS,
    MAX_LENGTH,
    SCREENS,
    Condition,
    Goto,
    QueryError,
    parse,
    parse_goto,
    render,
    terms,
)
from console.screens.alarms import place_of


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("", ()),
        ("word", (Term("any", "like", ("%word%",)),)),
        ("!word", (Term("any", "like", ("%word%",), 0.0, True),)),
        ('"two words"', (Term("any", "like", ("%two words%",)),)),
        ("os:linux|Android", (Term("os", "like", ("linux", "android")),)),
        ("name:web", (Term("name", "like", ("%web%",)),)),
        ("name=web", (Term("name", "like", ("web",)),)),
        ("name:web*", (Term("name", "like", ("web%",)),)),
        ("name:50%_\\", (Term("name", "like", ("%50\\%\\_\\\\%",)),)),
        ("tag:ci", (Term("tag", "like", ("tag:ci",)),)),
        ("!tag:tag:ci", (Term("tag", "like", ("tag:ci",), 0.0, True),)),
        ("tag:*", (Term("tag", "like", ("%",)),)),
        ("seen<1d", (Term("seen", "lt", (), 86_400.0),)),
        ("seen>1.5h", (Term("seen", "gt", (), 5_400.0),)),
        ("id:17", (Term("id", "eq", (), 17.0),)),
        ("id>17", (Term("id", "gt", (), 17.0),)),
        ("@eu-1", (Term("cluster", "like", ("eu-1",)),)),
        ("!@eu-1", (Term("cluster", "like", ("eu-1",), 0.0, True),)),
        (
            "state:online  seen<1h x",
            (
                Term("state", "like", ("online",)),
                Term("seen", "lt", (), 3_600.0),
                Term("any", "like", ("%x%",)),
            ),
        ),
    ],
)
def test_what_the_database_is_asked(line: str, asked: tuple[Term, ...]) -> None:
    assert terms(parse(line, DEVICE_FIELDS), DEVICE_FIELDS) == asked


@pytest.mark.parametrize(
    ("line", "reason", "place"),
    [
        ("x sene<1d", "did you mean seen?", "sene<1d"),
        ("qqqq:1", "there are name", "qqqq:1"),
        ("seen<soon", "is not an age", "seen<soon"),
        ("seen:1d", "takes < or >", "seen:1d"),
        ("id:x", "is not a number", "id:x"),
        ("id:1|2", "takes one value", "id:1|2"),
        ("os<linux", "is text", "os<linux"),
        ("os:", "a value is missing", "os:"),
        ("os:a||b", "a value is missing", "os:a||b"),
        ('x "open', "not closed", '"open'),
        ("!", "a value is missing", "!"),
        ("|".join(["a"] * (MAX_ALTERNATIVES + 1)), "alternatives", "|".join(["a"] * (MAX_ALTERNATIVES + 1))),
        (" ".join(["a"] * (MAX_CONDITIONS + 1)), "conditions", " ".join(["a"] * (MAX_CONDITIONS + 1))),
    ],
)
def test_what_is_refused_and_where(line: str, reason: str, place: str) -> None:
    with pytest.raises(QueryError, match=reason) as caught:
        parse(line, DEVICE_FIELDS)
    assert line[caught.value.start : caught.value.end] == place


def test_a_line_has_an_end() -> None:
    assert parse("x" * MAX_LENGTH, DEVICE_FIELDS)
    with pytest.raises(QueryError, match="characters"):
        parse("x" * (MAX_LENGTH + 1), DEVICE_FIELDS)


_VALUES = st.lists(
    st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        str.strip
    ),
    min_size=1,
    max_size=3,
).map(tuple)
_CONDITIONS = st.lists(
    st.one_of(
        st.builds(
            Condition,
            st.sampled_from(["name", "os", "tag", "cluster"]),
            st.sampled_from([":", "="]),
            _VALUES,
            st.booleans(),
        ),
        st.builds(Condition, st.just("seen"), st.sampled_from("<>"), st.just(("12h",)), st.booleans()),
        st.builds(Condition, st.just("any"), st.just(":"), _VALUES, st.booleans()),
    ),
    max_size=4,
).map(tuple)


@given(_CONDITIONS)
def test_what_is_written_is_read_again(conditions: tuple[Condition, ...]) -> None:
    assert parse(render(conditions), DEVICE_FIELDS) == conditions


@given(st.text(max_size=80))
def test_any_text_is_understood_or_refused(line: str) -> None:
    refusal: QueryError | None = None
    try:
        terms(parse(line, DEVICE_FIELDS), DEVICE_FIELDS)
    except QueryError as error:
        refusal = error
    assert refusal is None or (str(refusal) and 0 <= refusal.start <= refusal.end <= len(line))


@pytest.mark.parametrize(
    ("line", "goto"),
    [
        ("devices", Goto("devices")),
        ("dev @eu-1 /os:linux", Goto("devices", "@eu-1 os:linux")),
        ("nodes", Goto("devices")),
        ("k state:active", Goto("keys", "state:active")),
        ("clu", Goto("overview")),
    ],
)
def test_where_to_go(line: str, goto: Goto) -> None:
    assert parse_goto(line) == goto


@pytest.mark.parametrize("line", ["", "nowhere", "devices nofield:x"])
def test_nowhere_to_go(line: str) -> None:
    with pytest.raises(QueryError):
        parse_goto(line)


@pytest.mark.parametrize(
    ("what", "goto"),
    [
        ("cluster:eu-1", Goto("overview", "cluster=eu-1")),
        ("process:eu-1a", Goto("processes", "name=eu-1a")),
        ("tenants:eu-1", Goto("tenants", "cluster=eu-1 used>84")),
        ("devices:eu-1", Goto("devices", "cluster=eu-1 expires<24h !state=expired")),
        ("keys:eu-1", Goto("keys", "cluster=eu-1 expires<24h state=active")),
        ("lease:acs", Goto("processes")),
        ("webhooks", Goto("overview", "cluster=eu-1")),
    ],
)
def test_an_alarm_leads_to_its_object(what: str, goto: Goto) -> None:
    assert place_of(what, "eu-1") == goto
    fields = SCREENS[goto.screen]
    assert len(terms(parse(goto.filter, fields), fields)) == len(goto.filter.split())
