"""What the demo's tenants allow: two versions each, so that there is something to compare and to go back to.

Everybody still sees everybody of the own tailnet, as `deploy.demo.fleet.meet` demands.
"""

from __future__ import annotations

from app.db.scoped import Scoped
from app.model import TenantId
from app.policy.check import accept

#: The subnet behind the network storages and the customers' servers.
SUBNET = "10.20.0.0/16"

OPEN = """\
{
  // To begin with: everybody reaches everything.
  "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
}
"""

HOME = """\
{
  "groups": {
    "group:family":   ["alice@", "bob@"],
    "group:builders": ["carol@"],
  },
  "tagOwners": {"tag:server": ["group:family"]},
  "hosts": {"lan": "10.20.0.0/16"},
  // What bob's network storage announces needs nobody's approval.
  "autoApprovers": {"routes": {"10.20.0.0/16": ["bob@"]}},

  "acls": [
    // People: remote desktops, printing, file shares.
    {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:member:22,445,631,3389"]},
    // Servers: the web for all; the rest, and the network at home, for the family.
    {"action": "accept", "src": ["autogroup:member"], "dst": ["tag:server:80,443"]},
    {"action": "accept", "src": ["group:family"], "dst": ["tag:server:22", "lan:*"]},
    {"action": "accept", "src": ["tag:server"], "dst": ["tag:server:5432,6379"]},
  ],

  "tests": [
    {"src": "alice@", "accept": ["tag:server:22", "10.20.0.9:631"], "deny": ["tag:server:5432"]},
    {"src": "carol@", "accept": ["tag:server:443"], "deny": ["tag:server:22", "10.20.0.9:631"]},
  ],
}
"""

CUSTOMER = """\
{
  "groups": {"group:office": ["dana@"]},
  "acls": [
    {"action": "accept", "src": ["group:office"], "dst": ["group:office:22,80,443,3389"]},
    {"action": "accept", "src": ["group:office"], "dst": ["10.20.0.0/16:*"]},
  ],
  "tests": [{"src": "dana@", "accept": ["10.20.0.9:631"]}],
}
"""


async def give_policy(scoped: Scoped, tenant_id: TenantId, text: str) -> None:
    """First the open one, then this one; nothing where there are policies already. Raises PolicyError."""
    if await scoped.load_policy(tenant_id) is not None:
        return
    users = await scoped.list_users(tenant_id)
    for version, note in ((OPEN, "to begin with"), (text, "who needs what")):
        accept(version, users, ())
        await scoped.set_policy(tenant_id, version, author="demo", note=note)
