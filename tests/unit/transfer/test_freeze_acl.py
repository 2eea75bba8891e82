"""Access control lists: the statements that lead from one list to another, tried on a small model of PostgreSQL's own rules."""

from __future__ import annotations

import re

from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import acl
from hypothesis import given
from hypothesis import strategies as st

TABLE = acl.Subject("TABLE", '"public"."t"', "owner")
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")


class Server:
    """Entries in order of their first grant, one per grantee and grantor, gone when empty: as aclupdate does it."""

    def __init__(self, items: tuple[acl.Item, ...]) -> None:
        self.entries: dict[tuple[str, str], dict[str, bool]] = {}
        for item in items:
            self.entries.setdefault((item.grantee, item.grantor), {})[item.privilege] = item.grantable

    def run(self, statement: str) -> None:
        grantor = "owner"
        for part in statement.split("; "):
            if found := re.fullmatch(r'SET LOCAL ROLE (?:"(\w+)"|NONE)', part):
                grantor = found.group(1) or "owner"
                continue
            verb, what, role, option = re.fullmatch(
                r'(GRANT|REVOKE) (.*) ON TABLE .* (?:TO|FROM) (PUBLIC|"\w+")( WITH GRANT OPTION| CASCADE)?', part
            ).groups()
            grantee = "" if role == "PUBLIC" else role.strip('"')
            names = PRIVILEGES if what == "ALL PRIVILEGES" else what.split(", ")
            if verb == "GRANT":
                assert grantor == "owner" or any(
                    entry.get(name) for (holder, _g), entry in self.entries.items() if holder == grantor for name in names
                ), f"{grantor} holds no grant option for {statement}"
                entry = self.entries.setdefault((grantee, grantor), {})
                entry.update({name: bool(option) or entry.get(name, False) for name in names})
            else:
                self._revoke(grantee, grantor, names)

    def _revoke(self, grantee: str, grantor: str, names: tuple[str, ...] | list[str]) -> None:
        entry = self.entries.get((grantee, grantor), {})
        gone = [name for name in names if name in entry]
        for name in gone:
            del entry[name]
        if not entry:
            self.entries.pop((grantee, grantor), None)
        lost = [name for name in gone if not any(e.get(name) for (g, _o), e in self.entries.items() if g == grantee)]
        for other in [key for key in self.entries if key[1] == grantee and key != (grantee, grantor) and lost]:
            self._revoke(other[0], other[1], lost)

    @property
    def items(self) -> list[tuple[str, str, str, bool]]:
        return [
            (grantee, grantor, name, entry[name])
            for (grantee, grantor), entry in self.entries.items()
            for name in PRIVILEGES
            if name in entry
        ]


def plain(items: tuple[acl.Item, ...]) -> list[tuple[str, str, str, bool]]:
    return Server(items).items


@st.composite
def lists(draw: st.DrawFn) -> tuple[acl.Item, ...]:
    """Lists as they come about: the owner grants, and whoever got an option grants on."""
    server = Server(tuple(acl.Item("owner", "owner", name) for name in PRIVILEGES))
    for grantee in draw(st.lists(st.sampled_from(["anon", "web", "report", ""]), unique=True)):
        for name in draw(st.lists(st.sampled_from(PRIVILEGES), min_size=1, unique=True)):
            option = draw(st.booleans()) and grantee != ""
            server.run("; ".join(acl.grants(TABLE, [acl.Item(grantee, "owner", name, option)])))
            if option and grantee != "report" and draw(st.booleans()):
                server.run("; ".join(acl.grants(TABLE, [acl.Item("report", grantee, name)])))
    return tuple(acl.Item(*item) for item in server.items)


@given(lists(), st.sets(st.sampled_from(["anon", "web", ""])))
def test_revoked_writes_come_back_in_place(before: tuple[acl.Item, ...], roles: set[str]) -> None:
    server = Server(before)
    for statement in acl.revokes(TABLE, acl.write_items(before, "TABLE", frozenset(roles))):
        server.run(statement)
    assert not any(grantee in roles and name in acl.WRITES["TABLE"] for grantee, _grantor, name, _option in server.items)
    frozen = tuple(acl.Item(*item) for item in server.items)
    for statement in acl.grants(TABLE, acl.missing(frozen, before)):
        server.run(statement)
    assert set(server.items) == set(plain(before))
    if server.items != plain(before):
        for statement in acl.rebuild(TABLE, tuple(acl.Item(*item) for item in server.items), before):
            server.run(statement)
        assert set(server.items) == set(plain(before))


@given(lists(), lists())
def test_rebuild_leads_from_any_list_to_any_other(now: tuple[acl.Item, ...], wanted: tuple[acl.Item, ...]) -> None:
    server = Server(now)
    for statement in acl.rebuild(TABLE, now, wanted):
        server.run(statement)
    assert set(server.items) == set(plain(wanted))


def test_a_column_and_a_foreign_grantor_are_named() -> None:
    column = acl.Subject("COLUMN", '"public"."t"', "owner", 'a "b"')
    assert acl.grants(column, [acl.Item("anon", "owner", "UPDATE")]) == ['GRANT UPDATE ("a ""b""") ON TABLE "public"."t" TO "anon"']
    (statement,) = acl.revokes(TABLE, [acl.Item("", "web", "INSERT")])
    assert statement == 'SET LOCAL ROLE "web"; REVOKE INSERT ON TABLE "public"."t" FROM PUBLIC CASCADE; SET LOCAL ROLE NONE'
