"""Where one can go: every screen has a name and most have a key. Pure."""

from __future__ import annotations

from console.action import Action

PLACES: tuple[Action, ...] = (
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
)
