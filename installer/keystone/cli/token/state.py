"""The state of a token."""

from __future__ import annotations

from keystone.join import tokens as join


def state_of(record: join.Record, claim: join.Claim | None, now: int) -> str:
    """Return revoked, expired, used, or open: a machine can still join. now: s since 1970."""
    if record.revoked:
        return "revoked"
    if now >= record.expires:
        return "expired"
    return "used" if claim else "open"
