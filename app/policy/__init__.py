"""Who may reach, see and log in to whom: the Tailscale policy language. Pure.

hujson, aliases, reader   text -> document.Policy, every refusal with line and column
check, testing            a policy judged for the users and devices of a tenant
rules, states, selectors, classes
                          what a policy looks at, and devices that are the same to it
engine                    PolicyEngine: classes, filters, peers, routes and SSH rules, kept up to date
explain, impact, advice   for people: why, what a new policy changes, what looks wrong in it
snapshot, words           what a policy is applied to, and the answers as sentences
"""
