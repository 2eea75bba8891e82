"""The tables that grow: bookings, messages, dialogs, and the clients whose figures follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from uuid import UUID

from .business import CLIENTS, COMPANIES, LAST, Business, money
from .supabase import FIRST, NOW, Row

BOOKINGS, MESSAGES, DIALOGS = 105_000, 125_000, 3_000
SAID = (
    "Здравствуйте! Хочу записаться на {when}",
    "А есть время после обеда?\nЛучше к вашему мастеру 🙏",
    "Спасибо!\tДо встречи",
    "Перенесите, пожалуйста, запись на {when} \\o/",
    'Менеджер сказал: "цена — 1 500 ₽", верно?',
    "ok 👍🏽",
    "Can I come at {when}, please?",
    "",
    "C:\\temp\\photo.jpg {{не скачалось}}",
)
STATUSES = ("pending", "confirmed", "arrived", "completed", "cancelled", "no_show")
STATUS_WEIGHTS = (2, 8, 5, 66, 12, 7)


class Traffic(Business):
    """All rows of the old world."""

    def clients(self) -> Iterator[Row]:
        rng = self._rng("clients.rows")
        counts: Counter[int] = Counter()
        spent: Counter[int] = Counter()
        for row in self.booking_list:
            counts[row[3]] += 1
            spent[row[3]] += int(row[8] * 100) if row[7] == "completed" else 0
        for index, (number, company, phone) in enumerate(self.client_list):
            made = self._past(rng, 900)
            name = f"{rng.choice(FIRST)} {rng.choice(LAST)}".strip()
            born = None if index % 3 else date(1950 + rng.randrange(58), rng.randrange(1, 13), rng.randrange(1, 29))
            tags = rng.sample(["vip", "новый", 'кавычка "', "a,b", "NULL", "{}", ""], rng.randrange(0, 4))
            notes = None if index % 4 else rng.choice(["", "Аллергия на краску", "NULL", "\\N", "любит\tтабуляции", "две\nстроки"])
            yield (
                number,
                company,
                phone,
                name,
                None if index % 5 == 0 else f"Client{index}@Example.com",
                born,
                tags,
                notes,
                money(Decimal(spent[number]) / 100),
                counts[number],
                None if index % 6 == 0 else round(rng.random(), 6),
                made,
                made + timedelta(days=rng.randrange(30)),
            )

    @cached_property
    def booking_list(self) -> list[tuple[int, UUID, int, int, int, int, datetime, str, Decimal, timedelta, datetime]]:
        """(id, request id, company, client, service, staff, starts, status, price, duration, created)."""
        rng = self._rng("bookings")
        by_company = {c: ([r for r in self.service_list if r[1] == c], [r[0] for r in self.staff_list if r[1] == c]) for c in COMPANIES}
        rows, number = [], 0
        for _unused in range(BOOKINGS):
            number += rng.choice((1, 1, 1, 1, 3))
            client, company, _phone = self.client_list[int(CLIENTS * rng.random() ** 2)]
            services, people = by_company[company]
            service = rng.choice(services)
            starts = (self._past(rng, 900) + timedelta(days=20)).replace(minute=rng.choice((0, 15, 30, 45)), second=0, microsecond=0)
            status = rng.choices(STATUSES, STATUS_WEIGHTS)[0]
            created = starts - timedelta(seconds=rng.randrange(21 * 86400, 40 * 86400), microseconds=rng.randrange(10**6))
            rows.append(
                (number, self._uuid(rng), company, client, service[0], rng.choice(people), starts, status, service[3], service[2], created)
            )
        return rows

    def bookings(self) -> Iterator[Row]:
        rng = self._rng("bookings.rows")
        for index, (number, request, company, client, service, staff, starts, status, price, duration, created) in enumerate(
            self.booking_list
        ):
            discount = Decimal(0) if index % 5 else price * rng.choice([5, 10, 15]) / 100
            comment = None if index % 3 else rng.choice(SAID).format(when=starts.date())
            confirmed = None if status == "pending" else created + timedelta(seconds=rng.randrange(1, 90))
            yield (
                number,
                request,
                company,
                client,
                service,
                staff,
                starts,
                duration,
                status,
                money(price),
                money(discount),
                comment,
                300_000 + index,
                created,
                confirmed,
                confirmed or created,
            )

    def messages(self) -> Iterator[Row]:
        rng = self._rng("messages")
        phones = {row[0]: row[2] for row in self.client_list}
        number = 0
        for index in range(MESSAGES):
            number += rng.choice((1, 1, 2))
            booking = self.booking_list[index % BOOKINGS]
            confirms = index < BOOKINGS and booking[7] != "pending"
            phone = phones[booking[3]]
            sent = booking[10] + timedelta(seconds=rng.randrange(3600), microseconds=rng.randrange(10**6))
            body = f"Запись № {300_000 + index} подтверждена ✅" if confirms else rng.choice(SAID).format(when=booking[6].date())
            payload: dict[str, object] = {
                "key": {"id": "3EB0" + rng.randbytes(8).hex().upper(), "remoteJid": f"{phone[1:]}@s.whatsapp.net", "fromMe": confirms}
            }
            if index % 3 == 0:
                payload["message"] = {"extendedTextMessage": {"text": body, "contextInfo": {"expiration": rng.choice([0, 86400, 604800])}}}
            yield (
                number,
                booking[2],
                booking[3] if index % 50 else None,
                booking[0] if confirms else None,
                phone,
                "outgoing" if confirms else "incoming",
                body,
                None if index % 41 == 0 else payload,
                f"confirm-{booking[1]}" if confirms else None,
                sent,
            )

    def dialog_contexts(self) -> Iterator[Row]:
        rng = self._rng("dialogs")
        for index in range(DIALOGS):
            _unused, company, phone = self.client_list[index * 3]
            # json, not jsonb: keeps its spaces, its order and a key that stands twice.
            state = (
                f'{{"step": "{rng.choice(["ask", "offer", "done"])}",  "n": {rng.random() * 100!r}, "n": 1.0e2, "last": "\\u0000 {index}"}}'
            )
            yield (
                self._uuid(rng),
                company,
                phone,
                state,
                rng.randbytes(32) if index % 2 else None,
                NOW + timedelta(hours=rng.randrange(-48, 48)),
            )
