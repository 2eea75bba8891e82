"""Which generated rows go into which table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .supabase import Row
from .traffic import Traffic


def tables(world: Traffic) -> dict[str, tuple[str, Callable[[], Iterator[Row]]]]:
    """Table name -> (column list, rows). Generated columns are not in the lists."""
    return {
        "auth.users": (
            "instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, phone, raw_app_meta_data, raw_user_meta_data, "
            "is_super_admin, last_sign_in_at, is_sso_user, is_anonymous, created_at, updated_at, deleted_at",
            world.users,
        ),
        "auth.identities": (
            "provider_id, user_id, identity_data, provider, last_sign_in_at, created_at, updated_at, id",
            world.identities,
        ),
        "auth.sessions": ("id, user_id, created_at, updated_at, aal, not_after, user_agent, ip", world.sessions),
        "storage.buckets": (
            "id, name, owner, public, avif_autodetection, file_size_limit, allowed_mime_types, owner_id, created_at, updated_at",
            world.buckets,
        ),
        "storage.objects": (
            "id, bucket_id, name, owner, created_at, updated_at, last_accessed_at, metadata, version, owner_id",
            world.objects,
        ),
        "public.companies": ("id, title, timezone, phone, settings, latitude, longitude, created_at, updated_at", world.companies),
        "public.company_members": ("company_id, user_id, member_role, invited_at", world.company_members),
        "public.clients": (
            "id, company_id, phone, name, email, birthday, tags, notes, total_spent, booking_count, loyalty, created_at, updated_at",
            world.clients,
        ),
        "public.services": ("id, company_id, title, category, duration, price, is_active, created_at", world.services),
        "public.staff": ("id, company_id, name, specialization, rating, service_ids, is_active, created_at", world.staff),
        "public.schedules": ("id, staff_id, works, opens, closes, is_holiday", world.schedules),
        "public.bookings": (
            "id, request_id, company_id, client_id, service_id, staff_id, starts_at, duration, status, price, discount, comment, "
            "receipt_no, created_at, confirmed_at, updated_at",
            world.bookings,
        ),
        "public.messages": (
            "id, company_id, client_id, booking_id, phone, direction, body, payload, job_id, created_at",
            world.messages,
        ),
        "public.dialog_contexts": ("id, company_id, phone, state, embedding_hash, expires_at", world.dialog_contexts),
        "public.whatsapp_auth": ("company_id, creds, created_at, updated_at", world.whatsapp_auth),
        "public.whatsapp_keys": ("company_id, key_type, key_id, value, created_at, updated_at, expires_at", world.whatsapp_keys),
    }
