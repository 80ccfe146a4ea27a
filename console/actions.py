"""The registry of everything an operator can do: one entry makes key, footer, palette and help. Pure.

Lower-case letters look or change little, capitals change more; deletion is `D` only.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Every screen has a name to go to; these are a digit away.
DIGITS = {
    **{"overview": "1", "devices": "2", "users": "3", "keys": "4", "routes": "5", "policy": "6"},
    **{"netmap": "7", "rebalance": "8", "audit": "9", "processes": "0"},
}
SCREENS = (*DIGITS, "tenants", "moves", "jobs", "logins", "alarms")
LISTS = frozenset(SCREENS)
FLEET = LISTS - {"overview"}
PLANS = frozenset({"rebalance", "moves"})
ACTIVITY = frozenset({"netmap", "audit"})


@dataclass(frozen=True, slots=True)
class Action:
    """`tier`: 0 no dialog, 1 confirm, 2 confirm by typing. `kind`: the request it asks for.

    `many`: works on all marked rows. `rank`: place in the footer, 0 = not there.
    """

    id: str
    key: str
    label: str
    help: str
    screens: frozenset[str] = LISTS
    tier: int = 0
    kind: str = ""
    needs_row: bool = False
    many: bool = False
    rank: int = 0

    @property
    def needs_write(self) -> bool:
        return bool(self.kind)

    @property
    def shown_key(self) -> str:
        return {"space": "space", "enter": "enter", "escape": "esc"}.get(self.key) or self.key.replace(
            "ctrl+", "^"
        )


def _on(screen: str) -> frozenset[str]:
    return frozenset({screen})


ACTIONS: tuple[Action, ...] = (
    Action(
        "screen.overview", "1", "Overview", "Clusters: who owns them, how many devices, what needs attention."
    ),
    Action("screen.devices", "2", "Devices", "Devices of all clusters, live."),
    Action("screen.users", "3", "Users", "Owners of devices."),
    Action("screen.keys", "4", "Keys", "Auth keys, with which devices join."),
    Action("screen.routes", "5", "Routes", "Routes that devices announce or may carry."),
    Action("screen.policy", "6", "Policy", "Policies of tenants, all versions."),
    Action("screen.netmap", "7", "Netmap", "Changes of netmaps, and rebuilds with what they sent."),
    Action("screen.audit", "9", "Audit", "Who did what, the newest first."),
    Action("screen.processes", "0", "Processes", "hs-node and hs-acs, and their leases."),
    Action("screen.jobs", "J", "Jobs", "What the leading hs-acs does by the clock."),
    Action("screen.alarms", "!", "Alarms", "What is wrong, since when, and who knows of it."),
    Action("screen.logins", "L", "Logins", "Devices that wait until somebody lets them in."),
    Action("screen.rebalance", "8", "Rebalance", "Plans for moving tenants: proposed, under way, done."),
    Action("screen.tenants", "T", "Tenants", "Tenants, where they live and what they use of their limits."),
    Action(
        "row.open",
        "enter",
        "open",
        "What the row leads to: devices of a cluster, user or key; a device's page.",
        needs_row=True,
        rank=1,
    ),
    Action(
        "device.expire",
        "x",
        "expire",
        "End a device's login now; it has to log in again.",
        _on("devices"),
        1,
        "device_expire",
        needs_row=True,
        many=True,
        rank=3,
    ),
    Action(
        "device.never_expire",
        "X",
        "never expire",
        "Let a device's login last for ever (undoes expire).",
        _on("devices"),
        1,
        "device_expire",
        needs_row=True,
        many=True,
    ),
    Action(
        "device.rename",
        "r",
        "rename",
        "Give a device another name (a DNS label).",
        _on("devices"),
        1,
        "device_rename",
        needs_row=True,
        rank=5,
    ),
    Action(
        "device.tag",
        "t",
        "tags",
        "Replace the tags of a device; it belongs to them from then on.",
        _on("devices"),
        1,
        "device_tag",
        needs_row=True,
        many=True,
        rank=4,
    ),
    Action(
        "device.move_user",
        "m",
        "move",
        "Give a device to another user of its tenant.",
        _on("devices"),
        1,
        "device_move_user",
        needs_row=True,
        many=True,
    ),
    Action(
        "device.rebuild",
        "R",
        "rebuild",
        "Read a device, its user, a tag, its tenant or its cluster again and send the netmaps whole.",
        _on("devices"),
        1,
        "netmap_rebuild",
        needs_row=True,
        many=True,
    ),
    Action(
        "device.delete",
        "D",
        "delete",
        "Delete a device: its peers forget it, it is logged out.",
        _on("devices"),
        2,
        "device_delete",
        needs_row=True,
        many=True,
        rank=6,
    ),
    Action(
        "user.rebuild",
        "R",
        "rebuild",
        "Read the devices of a user again and send their netmaps whole.",
        _on("users"),
        1,
        "netmap_rebuild",
        needs_row=True,
        many=True,
        rank=9,
    ),
    Action(
        "cluster.rebuild",
        "R",
        "rebuild",
        "Read a whole cluster again and send the netmaps of all its devices whole.",
        _on("overview"),
        1,
        "netmap_rebuild",
        needs_row=True,
        rank=2,
    ),
    Action(
        "cluster.drain",
        "w",
        "drain",
        "Give a cluster no more tenants and move those it has elsewhere.",
        _on("overview"),
        2,
        "cluster_drain",
        needs_row=True,
        rank=3,
    ),
    Action(
        "cluster.undrain",
        "W",
        "undrain",
        "Let a cluster take tenants again; those that left stay where they are.",
        _on("overview"),
        1,
        "cluster_undrain",
        needs_row=True,
        rank=4,
    ),
    Action(
        "tenant.move",
        "m",
        "move",
        "Move a tenant to another cluster; its devices reconnect there.",
        _on("tenants"),
        1,
        "tenant_move",
        needs_row=True,
        many=True,
        rank=3,
    ),
    Action(
        "tenant.suspend",
        "S",
        "suspend",
        "Cut a tenant's devices off, without logging them out.",
        _on("tenants"),
        2,
        "tenant_suspend",
        needs_row=True,
        rank=5,
    ),
    Action(
        "tenant.resume",
        "U",
        "resume",
        "Let a suspended tenant's devices in again.",
        _on("tenants"),
        1,
        "tenant_resume",
        needs_row=True,
        rank=6,
    ),
    Action(
        "tenant.quota",
        "Q",
        "quota",
        "Another limit of devices for a while.",
        _on("tenants"),
        1,
        "quota_override",
        needs_row=True,
        rank=9,
    ),
    Action(
        "route.approve",
        "a",
        "approve",
        "Let a device carry a route that it announces.",
        _on("routes"),
        1,
        "routes_approve",
        needs_row=True,
        many=True,
        rank=3,
    ),
    Action(
        "route.reject",
        "R",
        "reject",
        "Take the approval of a route back.",
        _on("routes"),
        1,
        "routes_reject",
        needs_row=True,
        many=True,
        rank=4,
    ),
    Action(
        "policy.edit",
        "E",
        "edit",
        "Edit the policy in force in $EDITOR; checked before it is put into force.",
        _on("policy"),
        2,
        "policy_set",
        needs_row=True,
        rank=3,
    ),
    Action(
        "policy.rollback",
        "B",
        "roll back",
        "Put this version into force again, as a new one.",
        _on("policy"),
        2,
        "policy_set",
        needs_row=True,
        rank=4,
    ),
    Action(
        "audit.actor", "a", "same actor", "What the same actor did.", _on("audit"), needs_row=True, rank=3
    ),
    Action("audit.object", "t", "same object", "What was done to it.", _on("audit"), needs_row=True, rank=4),
    Action(
        "job.run",
        "r",
        "run now",
        "Have the leading hs-acs run a job now.",
        _on("jobs"),
        1,
        "job_run",
        needs_row=True,
        many=True,
        rank=3,
    ),
    Action(
        "login.approve",
        "a",
        "approve",
        "Let a waiting device in as a user's.",
        _on("logins"),
        1,
        "login_approve",
        needs_row=True,
        rank=3,
    ),
    Action(
        "login.deny",
        "D",
        "deny",
        "Send a waiting device away.",
        _on("logins"),
        1,
        "login_deny",
        needs_row=True,
        many=True,
        rank=4,
    ),
    Action(
        "alarm.acknowledge",
        "a",
        "acknowledge",
        "Tell everybody that you know of an alarm. Raised again it is a new one.",
        _on("alarms"),
        1,
        "alarm_acknowledge",
        needs_row=True,
        many=True,
        rank=3,
    ),
    Action(
        "view.follow",
        "f",
        "follow",
        "Keep the cursor on the newest row until it is moved.",
        ACTIVITY,
        rank=5,
    ),
    Action("tenant.users", "i", "users", "Users of a tenant.", _on("tenants"), needs_row=True, rank=4),
    Action(
        "tenant.rebuild",
        "R",
        "rebuild",
        "Read the devices of a tenant again and send their netmaps whole.",
        _on("tenants"),
        1,
        "netmap_rebuild",
        needs_row=True,
        many=True,
        rank=10,
    ),
    Action(
        "plan.new",
        "N",
        "new plan",
        "Work out who should move so that no cluster is too full.",
        PLANS,
        1,
        "rebalance_propose",
        rank=3,
    ),
    Action(
        "plan.approve",
        "A",
        "approve",
        "Carry a plan out, in waves.",
        PLANS,
        2,
        "rebalance_verb",
        needs_row=True,
        rank=4,
    ),
    Action(
        "plan.pause",
        "s",
        "pause",
        "Hold a plan up after the wave under way.",
        PLANS,
        1,
        "rebalance_verb",
        needs_row=True,
        rank=5,
    ),
    Action(
        "plan.resume",
        "r",
        "resume",
        "Go on with a plan that was held up.",
        PLANS,
        1,
        "rebalance_verb",
        needs_row=True,
        rank=6,
    ),
    Action(
        "plan.stop",
        "S",
        "stop",
        "End a plan where it is.",
        PLANS,
        1,
        "rebalance_verb",
        needs_row=True,
        rank=9,
    ),
    Action(
        "plan.rollback",
        "B",
        "roll back",
        "Undo what a plan has done, the last first.",
        PLANS,
        2,
        "rebalance_verb",
        needs_row=True,
        rank=10,
    ),
    Action(
        "user.create", "a", "add user", "Create a user in a tenant.", _on("users"), 1, "user_create", rank=3
    ),
    Action(
        "user.rename",
        "r",
        "rename",
        "Give a user another name.",
        _on("users"),
        1,
        "user_rename",
        needs_row=True,
        rank=5,
    ),
    Action(
        "user.delete",
        "D",
        "delete",
        "Delete a user without devices, and its auth keys.",
        _on("users"),
        2,
        "user_delete",
        needs_row=True,
        many=True,
        rank=6,
    ),
    Action(
        "key.create",
        "a",
        "new key",
        "Create an auth key; its text is shown once.",
        _on("keys"),
        1,
        "key_create",
        rank=3,
    ),
    Action(
        "key.expire",
        "x",
        "expire",
        "End an auth key; devices that joined with it stay.",
        _on("keys"),
        1,
        "key_expire",
        needs_row=True,
        many=True,
        rank=4,
    ),
    Action(
        "list.filter", "/", "filter", "Show some rows only: os:linux seen<1d !tag:x word @cluster.", rank=7
    ),
    Action("list.sort", "o", "sort", "Sort by the next column.", FLEET, rank=8),
    Action("list.reverse", "O", "reverse", "Turn the order round.", FLEET),
    Action(
        "mark.toggle", "space", "mark", "Mark the row, or take its mark off.", FLEET, needs_row=True, rank=2
    ),
    Action("mark.range", "V", "mark range", "Mark from the last marked row to here.", FLEET, needs_row=True),
    Action("mark.all", "*", "mark shown", "Mark all rows of this window.", FLEET),
    Action("mark.none", "u", "unmark", "Take all marks off.", FLEET),
    Action("row.json", "y", "JSON", "The row as JSON.", needs_row=True),
    Action(
        "row.copy",
        "c",
        "copy",
        "Copy name, address or id of the row; works over ssh (OSC 52).",
        needs_row=True,
    ),
    Action(
        "row.history",
        "l",
        "history",
        "What was done to it, by whom and when, from the audit log.",
        FLEET,
        needs_row=True,
    ),
    Action("list.export", "e", "export", "Save marked, shown or all matching rows: CSV, JSON.", FLEET),
    Action("view.top", "g", "top", "First row."),
    Action("view.end", "G", "end", "Last row."),
    Action("view.last", "-", "last view", "The view before this one, and back."),
    Action("view.older", "[", "older view", "Back in the views you have seen."),
    Action("view.newer", "]", "newer view", "Forth again."),
    Action("view.pause", "p", "pause", "Hold the picture still, and go on."),
    Action("view.reload", "ctrl+r", "reload", "Ask the database now; also retries a lost connection."),
    Action("view.screenshot", "ctrl+s", "screenshot", "Save this screen as SVG."),
    Action("app.goto", ":", "go to", "Go to a screen: devices @eu-1 os:linux"),
    Action("app.help", "?", "help", "All keys of this screen."),
    Action("app.back", "escape", "back", "Close, or clear the filter."),
    Action("app.quit", "q", "quit", "Leave the console."),
)

BY_ID = {action.id: action for action in ACTIONS}


def actions_of(screen: str) -> tuple[Action, ...]:
    """What can be done on a screen, in the order of the registry."""
    return tuple(action for action in ACTIONS if screen in action.screens)


def footer_of(screen: str) -> tuple[Action, ...]:
    """What the footer shows, the most important first; a narrow one cuts at the end."""
    return tuple(sorted((a for a in actions_of(screen) if a.rank), key=lambda action: action.rank))


def why_not(action: Action, *, writable: bool, linked: bool, has_row: bool) -> str:
    """Why an action cannot be done now; empty when it can."""
    if action.needs_write and not writable:
        return "this console is read-only"
    if action.needs_write and not linked:
        return "the database is not connected"
    if action.needs_row and not has_row:
        return "no row is selected"
    return ""
