"""Who the users of a policy are: which aliases name them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.model import User, UserId
from app.policy import aliases as a
from app.policy.aliases import Alias, Kind

OWNER, ADMIN, MEMBER_ROLE = "owner", "admin", "member"
#: The roles a user may have; a role names the autogroup of the same name.
ROLES = (*(name.removeprefix("autogroup:") for name in a.ROLE_AUTOGROUPS), MEMBER_ROLE)


@dataclass(frozen=True, slots=True)
class Person:
    """One user as policies see it. `login` is the e-mail address, or the name where there is none."""

    id: UserId
    login: str
    names: frozenset[str]
    role: str

    @property
    def local_part(self) -> str:
        return self.login.partition("@")[0]

    @property
    def domain(self) -> str:
        return self.login.partition("@")[2]


def _person(user: User) -> Person:
    login = user.email or user.name
    # `name@` names a user without an e-mail address, as in headscale.
    names = {user.email.lower(), f"{user.name.lower()}@"}
    if "@" in user.name:
        names.add(user.name.lower())
    return Person(user.id, login, frozenset(names - {""}), user.role)


class Directory:
    """The users of one tenant, and the groups of its policy."""

    def __init__(self, users: Iterable[User], groups: dict[str, tuple[str, ...]]) -> None:
        self.people: dict[UserId, Person] = {}
        self._by_name: dict[str, set[UserId]] = {}
        self._groups = groups
        for user in users:
            self.put(user)

    def put(self, user: User) -> bool:
        """A user is new or has changed; returns whether policies see a difference."""
        person = _person(user)
        if self.people.get(user.id) == person:
            return False
        self.remove(user.id)
        self.people[user.id] = person
        for name in person.names:
            self._by_name.setdefault(name, set()).add(person.id)
        return True

    def remove(self, user_id: UserId) -> bool:
        person = self.people.pop(user_id, None)
        if person is None:
            return False
        for name in person.names:
            self._by_name[name].discard(user_id)
            if not self._by_name[name]:
                del self._by_name[name]
        return True

    def users_of(self, alias: Alias) -> frozenset[UserId] | None:
        """The users whose untagged devices an alias stands for; None when it means no users."""
        match alias.kind:
            case Kind.USER:
                return frozenset(self._by_name.get(alias.name, ()))
            case Kind.GROUP:
                found: set[UserId] = set()
                for name in self._groups.get(alias.name, ()):
                    found |= self._by_name.get(name, set())
                return frozenset(found)
            case Kind.DOMAIN:
                return frozenset(p.id for p in self.people.values() if p.domain == alias.name)
            case Kind.AUTOGROUP if alias.name in (a.MEMBER, a.SELF):
                return frozenset(self.people)
            case Kind.AUTOGROUP if alias.name in a.ROLE_AUTOGROUPS:
                role = alias.name.removeprefix("autogroup:")
                return frozenset(p.id for p in self.people.values() if _has_role(p, role))
        return None

    def domains(self) -> frozenset[str]:
        """The domains that belong to the tenant: its owners'; anybody's where no owner is known."""
        owners = [p for p in self.people.values() if p.role == OWNER] or list(self.people.values())
        return frozenset(p.domain for p in owners if p.domain)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of the names that no user has."""
        return [name for name in names if name not in self._by_name]


def _has_role(person: Person, role: str) -> bool:
    return person.role == role or (person.role == OWNER and role == ADMIN)
