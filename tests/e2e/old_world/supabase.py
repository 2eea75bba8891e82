"""The platform's own rows (users, identities, sessions, files), and what every table's generator shares."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from random import Random
from uuid import UUID

from .copytext import Value

Row = tuple[Value, ...]
NOW = datetime(2026, 11, 1, 6, 30, 0, 123456, tzinfo=UTC)
FIRST = ("Анна", "Мария", "Ольга", "Айгуль", "Екатерина", "Дмитрий", "Сергей", "Otabek", "Zoë", "José", "Иван", "O'Brien", "李娜", "Марина")


class Platform:
    """Rows from one seed. Each table has its own random stream, so that one can change without the others."""

    def __init__(self, seed: str = "old-world-1") -> None:
        self._seed = seed

    def _rng(self, name: str) -> Random:
        return Random(f"{self._seed}:{name}")

    @staticmethod
    def _uuid(rng: Random) -> UUID:
        return UUID(int=rng.getrandbits(128), version=4)

    @staticmethod
    def _past(rng: Random, days: int) -> datetime:
        return NOW - timedelta(seconds=rng.randrange(days * 86400), microseconds=rng.randrange(10**6))

    @cached_property
    def user_ids(self) -> list[UUID]:
        rng = self._rng("users")
        return [self._uuid(rng) for _unused in range(24)]

    def users(self) -> Iterator[Row]:
        rng = self._rng("users.rows")
        for index, user in enumerate(self.user_ids):
            made, seen = self._past(rng, 700), self._past(rng, 20)
            password = "$2a$10$" + rng.randbytes(39).hex()[:53]
            phone = f"7900{index:07d}" if index % 3 else None
            meta: dict[str, object] = {"provider": "email", "providers": ["email"]}
            name: dict[str, object] = {"full_name": rng.choice(FIRST)}
            who = (UUID(int=0), user, "authenticated", "authenticated", f"manager{index}@example.org", password, made, phone)
            yield *who, meta, name, None, seen, False, False, made, made, None

    def identities(self) -> Iterator[Row]:
        rng = self._rng("identities")
        for index, user in enumerate(self.user_ids):
            made = self._past(rng, 700)
            data: dict[str, object] = {"sub": str(user), "email": f"Manager{index}@Example.org", "email_verified": index % 2 == 0}
            yield str(user), user, data, "email", made, made, made, self._uuid(rng)

    def sessions(self) -> Iterator[Row]:
        rng = self._rng("sessions")
        for index in range(40):
            made = self._past(rng, 30)
            yield (
                self._uuid(rng),
                self.user_ids[index % 24],
                made,
                made,
                "aal1",
                None,
                "Mozilla/5.0 (X11; Linux x86_64)",
                f"203.0.113.{index + 1}",
            )

    def buckets(self) -> Iterator[Row]:
        yield "documents", "documents", None, False, False, 5242880, ["image/png", "application/pdf"], None, NOW, NOW
        yield "avatars", "avatars", None, True, False, None, None, None, NOW, NOW

    def objects(self) -> Iterator[Row]:
        rng = self._rng("objects")
        for index in range(400):
            made = self._past(rng, 300)
            owner = self.user_ids[index % 24]
            meta: dict[str, object] = {"eTag": f'"{rng.randbytes(16).hex()}"', "size": rng.randrange(10**6), "mimetype": "image/png"}
            name = f"{owner}/{index:04d}/скан {index}.png"
            yield self._uuid(rng), "documents", name, owner, made, made, made, meta, str(self._uuid(rng)), str(owner)
