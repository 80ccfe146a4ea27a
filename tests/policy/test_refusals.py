"""Every refusal of the policy reader: its sentence, and the line and column it points at.

`¦` in a text marks the place; it is taken out before the text is read.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.policy.hujson import MAX_DEPTH, MAX_POLICY_CHARS, PolicyError
from app.policy.reader import read

TAGS = '"tagOwners": {"tag:a": [], "tag:b": []}'


def acl(dst: str = '"*:*"', src: str = '"*"', more: str = "") -> str:
    return f'{{{TAGS},\n "acls": [{{"action": "accept", "src": [{src}], "dst": [{dst}]{more}}}]}}'


def grant(dst: str = '"*"', src: str = '"*"', what: str = ', "ip": ["*"]') -> str:
    return f'{{{TAGS},\n "grants": [¤{{"src": [{src}], "dst": [{dst}]{what}}}]}}'


def ssh(dst: str = '"tag:a"', src: str = '"tag:a"', users: str = '"root"', more: str = "") -> str:
    return (
        f'{{{TAGS},\n "ssh": [¤{{"action": "accept", "src": [{src}], "dst": [{dst}],'
        f' "users": [{users}]{more}}}]}}'
    )


NO_ALIAS = '"{}" is no user, group, tag, autogroup, host or address'
SELF = "autogroup:self can only be used with users, groups, or supported autogroups"
NUL = "neither NUL nor half a character (a lone surrogate) may stand here"
STRING = "this string is not closed, or has a wrong escape or a control character"

SYNTAX = [
    ("¦", "expected a value, found the end of the text"),
    ("// only a comment¦", "expected a value, found the end of the text"),
    ("{\n¦/* never closed }", "this comment is never closed"),
    ("{}\n  ¦{}", "nothing may follow the policy's closing bracket"),
    ("¦[]", "the policy must be an object"),
    ("¦null", "the policy must be an object"),
    ("{¦groups: {}}", "expected a name in quotes, found 'g'"),
    ('{"acls" ¦[]}', 'expected ":" after the name "acls"'),
    ('{"acls": ¦}', "expected a value, found '}'"),
    ('{"acls": [] ¦"ssh": []}', 'expected "," or "}", found \'"\''),
    ('{"acls": [1 ¦2]}', 'expected "," or "]", found \'2\''),
    ('{"acls": [¦', "expected a value, found the end of the text"),
    ('{"acls": [1¦', 'expected "," or "]", found the end of the text'),
    ('{"acls": [¦,]}', "expected a value, found ','"),
    ('{"acls": [],¦,}', "expected a name in quotes, found ','"),
    ('{"acls": ¦nul}', "expected a value, found 'n'"),
    ('{"acls": ¦NaN}', "expected a value, found 'N'"),
    ('{"acls": ¦01}', "expected a value, found '0'"),
    ('{"acls": ¦+1}', "expected a value, found '+'"),
    ('{"acls": ¦1.}', "expected a value, found '1'"),
    ("{\"acls\": ¦'a'}", 'expected a value, found "\'"'),
    ('{"acls": ¦999999999999999999999}', "this number is too large"),
    ('{"acls": ¦1e999}', "this number is too large"),
    ('{"acls": ¦-1e999}', "this number is too large"),
    ('{"groups": {¦"group:a', STRING),
    ('{"acls": ¦"\\x41"}', STRING),
    ('{"acls": ¦"\\u12g4"}', STRING),
    ('{"acls": ¦"tab\there"}', STRING),
    ('{"acls": ¦"line\nbreak"}', STRING),
    ('{"acls": ¦"\\ud800"}', "this string holds half a character (a lone surrogate)"),
    ('{"acls": ¦"\\udc00\\ud800"}', "this string holds half a character (a lone surrogate)"),
    ("{} // ¦\0", NUL),
    ("/* ¦\ud800 */ {}", NUL),
    ('{"hosts": {"a": "10.0.0.1",\n ¦"a": "10.0.0.2"}}', '"a" stands here a second time'),
    ('{"hosts": {"a": "10.0.0.1",\n ¦"\\u0061": "10.0.0.2"}}', '"a" stands here a second time'),
    ('{"acls": [],\r\n ¦"acls": []}', '"acls" stands here a second time'),
    (
        '{"x": ' + "[" * MAX_DEPTH + "¦[" + "]" * (MAX_DEPTH + 1) + "}",
        f"nested deeper than {MAX_DEPTH} levels",
    ),
    (
        "¦" + " " * MAX_POLICY_CHARS + "{}",
        f"the policy has {MAX_POLICY_CHARS + 2} characters, more than {MAX_POLICY_CHARS}",
    ),
]

DEFINITIONS = [
    ('{¦"acl": []}', 'unknown field "acl" in the policy'),
    ('{"acls": ¦{}}', '"acls" must be a list'),
    ('{"acls": [¦1]}', "an ACL must be an object"),
    ('{"grants": [¦"x"]}', "a grant must be an object"),
    ('{"ssh": [¦[]]}', "an ssh rule must be an object"),
    ('{"nodeAttrs": [¦1]}', "an entry of nodeAttrs must be an object"),
    ('{"tests": [¦1]}', "a test must be an object"),
    ('{"sshTests": [¦1]}', "an SSH test must be an object"),
    ('{"randomizeClientPort": ¦1}', '"randomizeClientPort" must be true or false'),
    ('{"groups": ¦[]}', '"groups" must be an object'),
    ('{"groups": {¦"dev": []}}', "groups[\"dev\"]: group names must start with 'group:'"),
    ('{"groups": {¦"group:": []}}', "groups[\"group:\"]: group names must start with 'group:'"),
    ('{"groups": {"group:a": ¦"x@"}}', 'groups["group:a"] must be a list'),
    ('{"groups": {"group:a": [¦1]}}', 'each entry of groups["group:a"] must be a string'),
    (
        '{"groups": {"group:a": [¦"group:b"], "group:b": []}}',
        'groups["group:a"]: "group:b": group members cannot be recursive',
    ),
    ('{"groups": {"group:a": ["a@x", ¦"b"]}}', 'groups["group:a"]: "b": group members must be users'),
    ('{"groups": {"group:a": [¦"tag:b@c"]}}', 'groups["group:a"]: "tag:b@c": group members must be users'),
    ('{"hosts": {¦"a@b": "10.0.0.1"}}', 'hosts["a@b"]: a host name cannot hold any of @ * : /'),
    ('{"hosts": {¦"": "10.0.0.1"}}', 'hosts[""]: a host name cannot hold any of @ * : /'),
    ('{"hosts": {"a": ¦1}}', 'hosts["a"] must be a string'),
    ('{"hosts": {"a": ¦"fe80::1%eth0"}}', "hosts[\"a\"]: 'fe80::1%eth0' has a zone"),
    (
        '{"hosts": {"a": ¦"10.0.0.0/0.0.0.255"}}',
        "hosts[\"a\"]: '10.0.0.0/0.0.0.255' does not end in a number of bits",
    ),
    (
        '{"hosts": {"a": ¦"10.0.0.256"}}',
        "hosts[\"a\"]: '10.0.0.256' does not appear to be an IPv4 or IPv6 network",
    ),
    ('{"tagOwners": {¦"web": []}}', "tagOwners[\"web\"]: tag names must start with 'tag:'"),
    (
        '{"tagOwners": {¦"tag:1": []}}',
        "tagOwners[\"tag:1\"]: tag names must start with a letter, after 'tag:'",
    ),
    (
        '{"tagOwners": {¦"tag:a_b": []}}',
        'tagOwners["tag:a_b"]: tag names can only contain numbers, letters, or dashes',
    ),
    ('{"tagOwners": {"tag:a": [¦"tag:b"]}}', 'tagOwners["tag:a"]: tag not found: "tag:b"'),
    ('{"tagOwners": {"tag:a": [¦"group:b"]}}', 'tagOwners["tag:a"]: group not found: "group:b"'),
    (
        '{"tagOwners": {"tag:a": [¦"autogroup:tagged"]}}',
        'tagOwners["tag:a"]: "autogroup:tagged" cannot be used here',
    ),
    ('{"tagOwners": {"tag:a": [¦"*"]}}', 'tagOwners["tag:a"]: "*" is no user, group or tag'),
    ('{"tagOwners": {"tag:a": [¦"10.0.0.1"]}}', 'tagOwners["tag:a"]: "10.0.0.1" is no user, group or tag'),
    ('{"autoApprovers": ¦[]}', "autoApprovers must be an object"),
    ('{"autoApprovers": {¦"exit": []}}', 'unknown field "exit" in autoApprovers'),
    ('{"autoApprovers": {¦"services": {"svc:a": []}}}', '"services" in autoApprovers is not supported'),
    ('{"autoApprovers": {"routes": ¦[]}}', '"autoApprovers.routes" must be an object'),
    (
        '{"autoApprovers": {"routes": {¦"10.0.0.0/33": []}}}',
        "autoApprovers.routes[\"10.0.0.0/33\"]: '10.0.0.0/33' does not appear to be an IPv4 or IPv6 network",
    ),
    (
        '{"autoApprovers": {"routes": {"10.0.0.0/8": [¦"tag:x"]}}}',
        'autoApprovers.routes["10.0.0.0/8"]: tag not found: "tag:x"',
    ),
    ('{"autoApprovers": {"exitNode": [¦"tag:x"]}}', 'autoApprovers.exitNode: tag not found: "tag:x"'),
]

ACLS = [
    ('{"acls": [¦{}]}', 'action="" is not supported, only "accept"'),
    ('{"acls": [{"action": ¦"deny"}]}', 'action="deny" is not supported, only "accept"'),
    ('{"acls": [{"action": ¦7}]}', '"action" must be a string'),
    (acl(more=', ¦"ports": []'), 'unknown field "ports" in an ACL'),
    (acl(more=', ¦"srcPosture": ["posture:x"]'), '"srcPosture" in an ACL is not supported'),
    (acl(more=', "proto": ¦"quic"'), 'proto "quic" is neither a known protocol nor a number from 0 to 255'),
    (acl(more=', "proto": ¦"256"'), 'proto "256" is neither a known protocol nor a number from 0 to 255'),
    (
        acl('¦"tag:a:22"', more="").replace('"src"', '"proto": "gre", "src"'),
        'dst="tag:a:22": protocol 47 has no ports, only "*" can be used',
    ),
    (acl(src='¦"tag:x"'), 'src=tag not found: "tag:x"'),
    (acl(src='¦"group:x"'), 'src=group not found: "group:x"'),
    (acl(src='¦"autogroup:internet"'), 'src="autogroup:internet" cannot be used here'),
    (acl(src='¦"autogroup:nobody"'), 'src="autogroup:nobody" cannot be used here'),
    (acl(src='¦"svc:x"'), 'src="svc:x": svc is not supported'),
    (acl(src='¦"somebody"'), "src=" + NO_ALIAS.format("somebody")),
    (acl(src='¦""'), "src=" + NO_ALIAS.format("")),
    (acl(src='"*", ¦3'), 'each entry of "src" must be a string'),
    (acl('¦"tag:a"'), 'dst="tag:a": a destination is written "target:ports"'),
    (acl('¦"nohost"'), 'dst="nohost": a destination is written "target:ports"'),
    (acl('¦"nohost:22"'), "dst=" + NO_ALIAS.format("nohost")),
    (acl('¦"tag:x:22"'), 'dst=tag not found: "tag:x"'),
    (acl('¦"autogroup:danger-all:22"'), 'dst="autogroup:danger-all" cannot be used here'),
    (acl('¦"tag:a:ssh"'), 'dst="tag:a:ssh": port range "ssh": invalid first integer'),
    (acl('¦"tag:a:1-x"'), 'dst="tag:a:1-x": port range "1-x": invalid last integer'),
    (acl('¦"tag:a:9-8"'), 'dst="tag:a:9-8": port range "9-8": first port is greater than last port'),
    (acl('¦"tag:a:65536"'), 'dst="tag:a:65536": port range "65536": invalid first integer'),
    (acl('¦"tag:a:22,"'), 'dst="tag:a:22,": port range "": invalid first integer'),
    (acl('¦"0.0.0.0/0:*"'), 'dst "0.0.0.0/0": to allow all IP addresses, use "*" or "autogroup:internet"'),
    (acl('¦"[::/0]:*"'), 'dst "[::/0]": to allow all IP addresses, use "*" or "autogroup:internet"'),
    (acl('¦"autogroup:self:*"', src='"tag:a"'), SELF),
    (acl('¦"autogroup:self:*"', src='"10.0.0.1"'), SELF),
    (acl('¦"autogroup:self:*"', src='"autogroup:tagged"'), SELF),
    (acl('¦"autogroup:self:*"', src='"autogroup:danger-all"'), SELF),
]

GRANTS = [
    (grant(what="").replace("¤", "¦"), "ip and app can not both be empty"),
    (grant(what=', "ip": ["*"], ¦"users": []'), 'unknown field "users" in a grant'),
    (grant(what=', "ip": ["*"], ¦"srcPosture": ["a"]'), '"srcPosture" in a grant is not supported'),
    (grant(what=', "ip": [¦"icmp"]'), 'port range "icmp": invalid first integer'),
    (grant(what=', "ip": [¦"tcp:x"]'), 'port range "x": invalid first integer'),
    (grant(what=', "ip": [¦"icmp:22"]'), 'protocol 1 has no ports, only "*" can be used'),
    (grant(what=', "ip": [¦"xyz:22"]'), 'proto "xyz" is neither a known protocol nor a number from 0 to 255'),
    (grant(src='¦"tag:x"'), 'src=tag not found: "tag:x"'),
    (grant(dst='¦"tag:x"'), 'dst=tag not found: "tag:x"'),
    (grant(dst='¦"tag:a:22"'), 'dst=tag not found: "tag:a:22"'),
    (grant(dst='¦"::/0"'), 'dst "::/0": to allow all IP addresses, use "*" or "autogroup:internet"'),
    (grant(dst='¦"autogroup:self"'), SELF),
    (
        grant(dst='¦"autogroup:internet"', what=', "app": {"example.com/cap/x": []}'),
        "cannot use app grants with autogroup:internet",
    ),
    (grant(what=', "ip": ["*"], "via": [¦"a@b"]'), "via can only be a tag"),
    (grant(what=', "ip": ["*"], "via": [¦"tag:x"]'), 'tag "tag:x" not found'),
    (grant(what=', "app": ¦[]'), '"app" must be an object'),
    (grant(what=', "app": {"example.com/cap/x": ¦{}}'), '"example.com/cap/x" must be a list'),
    *(
        (
            grant(what=f', "app": {{¦"{name}": []}}'),
            "capability name must have the form {domain}/{path}",
        )
        for name in ("cap", "example.com", "example.com/", "https://example.com/cap", "cap/x", "./x")
    ),
    (
        grant(what=', "app": {¦"tailscale.com/cap/relay-target": []}'),
        "capability name must not be in the tailscale.com domain",
    ),
    (
        grant(what=', "app": {¦"a.tailscale.com/cap/x": []}'),
        "capability name must not be in the tailscale.com domain",
    ),
]

SSH = [
    ('{"ssh": [¦{}]}', "action must be specified"),
    ('{"ssh": [{"action": ¦"ACCEPT"}]}', '"ACCEPT" is not a valid action'),
    (ssh(users="").replace("¤", "¦"), "users must be specified"),
    (ssh(users='¦"*"'), 'user "*" is not valid'),
    (ssh(users='"root", ¦" "'), 'user "" is not valid'),
    (ssh(src='¦"*"'), 'src="*": SSH sources must be users, groups, tags or autogroups'),
    (ssh(src='¦"10.0.0.1"'), 'src="10.0.0.1": SSH sources must be users, groups, tags or autogroups'),
    (ssh(src='¦"tag:x"'), 'src=tag not found: "tag:x"'),
    (ssh(dst='¦"*"'), 'dst="*": SSH destinations must be tags, users or autogroups'),
    (ssh(dst='¦"10.0.0.1"'), 'dst="10.0.0.1": SSH destinations must be tags, users or autogroups'),
    (ssh(dst='¦"autogroup:internet"'), 'dst="autogroup:internet" cannot be used here'),
    (ssh(dst='¦"autogroup:self"'), SELF),
    (ssh(more=', "acceptEnv": [¦""]'), "acceptEnv values cannot be empty"),
    (ssh(more=', "checkPeriod": ¦"1 day"'), 'time: invalid duration "1 day"'),
    (ssh(more=', "checkPeriod": ¦"2562048h"'), 'time: invalid duration "2562048h"'),
    (ssh(more=', "checkPeriod": ¦"-90s"'), "checkPeriod -1m30s must be a positive duration"),
    (ssh(more=', ¦"recorder": ["tag:a"]'), '"recorder" in an ssh rule is not supported'),
    (ssh(more=', ¦"enforceRecorder": true'), '"enforceRecorder" in an ssh rule is not supported'),
    (ssh(more=', ¦"srcPosture": ["x"]'), '"srcPosture" in an ssh rule is not supported'),
    (ssh(more=', ¦"user": []'), 'unknown field "user" in an ssh rule'),
]

OTHERS = [
    ('{"nodeAttrs": [{"target": [¦"tag:x"]}]}', 'target=tag not found: "tag:x"'),
    ('{"nodeAttrs": [{"target": [¦"autogroup:self"]}]}', 'target="autogroup:self" cannot be used here'),
    ('{"nodeAttrs": [{"target": ["*"], "attr": [¦" "]}]}', "attr values cannot be empty"),
    ('{"nodeAttrs": [{"ipPool": [¦"10.0.0.1"]}]}', "IPPool(10.0.0.1): not a network"),
    (
        '{"nodeAttrs": [{"ipPool": [¦"100.100.0.0/16"]}]}',
        "IPPool(100.100.0.0/16): network within reserved range",
    ),
    ('{"nodeAttrs": [{¦"app": {"x": 1}}]}', '"app" in an entry of nodeAttrs is not supported'),
    ('{"nodeAttrs": [{¦"attrs": []}]}', 'unknown field "attrs" in an entry of nodeAttrs'),
    ('{"tests": [{"src": ¦[]}]}', '"src" must be a string'),
    ('{"tests": [{¦"users": []}]}', 'unknown field "users" in a test'),
    ('{"tests": [{¦"srcPostureAttrs": {"a": 1}}]}', '"srcPostureAttrs" in a test is not supported'),
    *(
        (f'{{"sshTests": [{{"dst": [¦"{name}"]}}]}}', f'SSH tests dst contains disallowed element "{name}"')
        for name in ("*", "autogroup:internet", "10.0.0.0/8")
    ),
    ('{"sshTests": [{¦"proto": "tcp"}]}', 'unknown field "proto" in an SSH test'),
]

CASES = [*SYNTAX, *DEFINITIONS, *ACLS, *GRANTS, *SSH, *OTHERS]


@pytest.mark.parametrize(("marked", "reason"), CASES, ids=lambda text: text[-60:])
def test_refusal(marked, reason):
    marked = marked.replace("¤", "")
    before, mark, after = marked.partition("¦")
    assert mark
    assert "¦" not in after
    with pytest.raises(PolicyError) as caught:
        read(before + after)
    error = caught.value
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    assert (error.reason, error.line, error.column) == (reason, line, column)
    assert str(error) == f"line {line}, column {column}: {reason}"


def test_every_kind_of_refusal_has_a_case():
    """Sentences in the source, without what is filled in, all occur in a case above."""
    told = "\n".join(reason for _, reason in CASES)
    root = Path(__file__).resolve().parents[2] / "app" / "policy"
    missing = []
    for name in ("hujson.py", "reader.py", "aliases.py"):
        source = (root / name).read_text()
        for match in re.finditer(r"(?:error|ValueError|_error|PolicyError)\(\s*f?(['\"])(.*?)\1\)", source):
            pieces = re.split(r"\{[^{}]*\}|\\", match[2])
            piece = max(pieces, key=len).strip(" \"'")
            if piece not in told:
                missing.append(f"{name}: {match[2]}")
    assert missing == []
