"""The booking assistant's master data: companies, members, services, staff, schedules, clients' phones, WhatsApp keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property

from . import whatsapp
from .supabase import FIRST, NOW, Platform, Row

COMPANY = 962302
COMPANIES = (COMPANY, 962311, 962340, 970001, 970155, 981004)
CLIENTS, STAFF_EACH, SERVICES_EACH, DAYS = 12_000, 10, 18, 120
LAST = ("Иванова", "Smith", "Каримова", "Müller", "Петров", "Łukasz", "Ким", "Сидорова", "D\\Angelo", "Öztürk", "Захарова", "", "Назарова")
TITLES = ("Стрижка", "Окрашивание", "Маникюр", "Педикюр", "Бритьё", "Укладка", "Массаж", "Наращивание ресниц", "Брови «ламинирование»")


def money(amount: Decimal) -> str:
    """An amount as numeric(…, 2) prints it."""
    return f"{amount:.2f}"


class Business(Platform):
    """Rows of the tables that change rarely."""

    def companies(self) -> Iterator[Row]:
        rng = self._rng("companies")
        for index, company in enumerate(COMPANIES):
            settings: dict[str, object] = {
                "bot": {"enabled": True, "persona": "Кристина"},
                "hours": {"mon": [9, 21]},
                "limit": 1e3,
                "vat": None,
            }
            made = self._past(rng, 900)
            yield (
                company,
                f"Салон «Кристалл» №{index + 1}",
                "Europe/Moscow",
                f"+7495{index:07d}",
                settings,
                55.7 + rng.random(),
                37.5 + rng.random() / 3,
                made,
                made,
            )

    def company_members(self) -> Iterator[Row]:
        rng = self._rng("members")
        for index, user in enumerate(self.user_ids):
            yield (
                COMPANIES[index % len(COMPANIES)],
                user,
                "owner" if index < len(COMPANIES) else "manager",
                self._past(rng, 200) if index % 4 else None,
            )

    @cached_property
    def service_list(self) -> list[tuple[int, int, timedelta, Decimal]]:
        rng = self._rng("services")
        return [
            (
                1000 + 3 * index,
                COMPANIES[index % len(COMPANIES)],
                timedelta(minutes=rng.choice([30, 45, 60, 90, 120])),
                Decimal(rng.randrange(50, 900)) * 10,
            )
            for index in range(SERVICES_EACH * len(COMPANIES))
        ]

    def services(self) -> Iterator[Row]:
        rng = self._rng("services.rows")
        for index, (service, company, duration, price) in enumerate(self.service_list):
            title = f"{TITLES[index % len(TITLES)]} {index // len(TITLES) + 1}"
            yield (
                service,
                company,
                title,
                rng.choice(["hair", "nails", "care", None]),
                duration,
                money(price),
                index % 11 != 10,
                self._past(rng, 800),
            )

    @cached_property
    def staff_list(self) -> list[tuple[int, int]]:
        return [(200 + 2 * index, COMPANIES[index % len(COMPANIES)]) for index in range(STAFF_EACH * len(COMPANIES))]

    def staff(self) -> Iterator[Row]:
        rng = self._rng("staff.rows")
        for index, (person, company) in enumerate(self.staff_list):
            rating = None if index % 9 == 8 else rng.random() * 5
            offers = [row[0] for row in self.service_list if row[1] == company][: rng.randrange(1, 6)]
            yield (
                person,
                company,
                f"{rng.choice(FIRST)} {rng.choice(LAST)}".strip(),
                rng.choice(TITLES),
                rating,
                offers,
                index % 13 != 12,
                self._past(rng, 800),
            )

    def schedules(self) -> Iterator[Row]:
        rng = self._rng("schedules")
        number = 0
        for person, _unused in self.staff_list:
            for day in range(DAYS):
                number += 1
                on = (NOW + timedelta(days=day - 30)).date()
                opens, closes = time(rng.choice([9, 10, 11])), time(rng.choice([18, 20, 21]), 30)
                start, end = (datetime.combine(on, at, UTC) - timedelta(hours=3) for at in (opens, closes))
                yield (
                    number,
                    person,
                    f'["{start.isoformat(sep=" ")}","{end.isoformat(sep=" ")}")',
                    opens.isoformat(),
                    closes.isoformat(),
                    day % 31 == 0,
                )

    @cached_property
    def client_list(self) -> list[tuple[int, int, str]]:
        """(id, company, phone); six of ten belong to the first company."""
        rng = self._rng("clients")
        rows, number = [], 0
        for index in range(CLIENTS):
            number += rng.choice([1, 1, 1, 2])
            company = COMPANY if index % 10 < 6 else COMPANIES[1 + index % (len(COMPANIES) - 1)]
            rows.append((number, company, f"+79{index:09d}"))
        return rows

    def whatsapp_auth(self) -> Iterator[Row]:
        return whatsapp.auth_rows(self._rng("whatsapp_auth"), COMPANY, NOW)

    def whatsapp_keys(self) -> Iterator[Row]:
        return whatsapp.key_rows(self._rng("whatsapp_keys"), COMPANY, NOW)
