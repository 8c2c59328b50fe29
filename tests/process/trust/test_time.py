"""Expiry (B29): judged by the latest of build floor, newest signed time and system clock.

TUF 5.3.10, 5.4.4, 5.5.6, 5.6.5, with a time that never goes back (against freeze attacks).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle.trust import build_floor
from keystone.bundle.trust import verify as trust
from keystone.errors import UntrustedBundleError

if TYPE_CHECKING:
    from pathlib import Path

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONTH = timedelta(days=30)


def verify(sim: Any, clock: datetime, seen: datetime | None = None) -> trust.Verified:
    keys = frozenset(key.public for key in sim.release_keys)
    known = trust.Accepted(1, seen, "sha256:", seen, keys) if seen else None
    return trust.verify(sim.files(), sim.pin(accepted=known), clock)


def refusal(sim: Any, clock: datetime, seen: datetime | None = None) -> UntrustedBundleError:
    with pytest.raises(UntrustedBundleError, match="expired") as refused:
        verify(sim, clock, seen)
    assert (refused.value.code, refused.value.exit_code) == ("KSB-29", 4)
    return refused.value


def test_bundle_is_valid_until_the_second_of_its_expiry(sim: Any) -> None:
    sim.days = 30
    verify(sim, CREATED + MONTH - timedelta(seconds=1))
    refusal(sim, CREATED + MONTH)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_each_role_expires_separately(sim: Any, role: str) -> None:
    sim.edits[role] = lambda signed: signed.update(expires="2026-12-01T00:00:00Z")
    verify(sim, CREATED)
    assert role in refusal(sim, CREATED + MONTH).message


def test_only_the_newest_root_must_not_be_expired(simulator: Any) -> None:
    sim = simulator(days=4000)
    sim.root_expires = CREATED + MONTH
    sim.roots.clear()
    sim.rotate()
    late = CREATED + 2 * MONTH
    refusal(sim, late)
    sim.root_expires = CREATED + 100 * MONTH
    verify(sim.rotate(), late)


# Each of the three times is the latest in one test, and decides.


def test_system_clock_decides_when_it_is_the_latest_time(sim: Any) -> None:
    sim.days = 30
    refusal(sim, CREATED + 2 * MONTH, seen=CREATED)


def test_newest_signed_time_decides_when_the_clock_is_behind(simulator: Any) -> None:
    old = simulator(number=2, days=30)
    verify(old, EPOCH, seen=CREATED)
    message = refusal(old, EPOCH, seen=CREATED + 2 * MONTH).message
    assert "judged at 2027-01-19" in message
    assert "clock shows 1970-01-01" in message


def test_build_floor_decides_when_no_other_time_is_later(
    simulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = simulator(created=CREATED - 12 * MONTH, days=30)
    refusal(old, EPOCH)
    monkeypatch.setattr(trust, "build_floor", lambda: EPOCH)
    verify(old, EPOCH)
    monkeypatch.setattr(trust, "build_floor", lambda: CREATED)
    refusal(old, EPOCH)


def test_bundle_expired_before_its_own_signed_time_is_refused(sim: Any) -> None:
    """The bundle was already expired when it was made."""
    sim.edits["snapshot"] = lambda signed: signed.update(expires="2026-11-19T00:00:00Z")
    refusal(sim, EPOCH)


# Wrong clocks.


def test_valid_bundle_is_accepted_with_a_clock_at_1970(sim: Any) -> None:
    assert verify(sim, EPOCH).created == CREATED


def test_expiry_message_shows_a_clock_in_2099(sim: Any) -> None:
    refused = refusal(sim, datetime(2099, 1, 1, tzinfo=UTC))
    assert "clock shows 2099-01-01" in refused.message
    assert "set the clock" in refused.hint


def test_bundle_from_tomorrow_is_accepted_and_becomes_the_newest_time(sim: Any, host: Any) -> None:
    """A bundle from the future is not an attack: the clock is behind the signed time."""
    tomorrow = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    later = sim.again(created=tomorrow)
    host.accepts(later)
    pin = trust.host_pin(host.trust)
    assert pin.accepted
    assert pin.accepted.newest_time == tomorrow


def test_accepted_bundle_expires_when_it_is_offered_again(sim: Any, host: Any) -> None:
    """An accepted bundle expires too, when it is offered again."""
    short = sim.again(days=30)
    files, pin = short.files(), short.pin()
    verified = trust.verify(files, pin, CREATED)
    trust.remember(verified, host.trust)
    frozen = trust.host_pin(host.trust)
    trust.verify(files, frozen, CREATED)
    with pytest.raises(UntrustedBundleError, match="expired"):
        trust.verify(files, frozen, CREATED + MONTH)
    newer = replace(frozen, accepted=None)
    trust.verify(files, newer, CREATED)


# The floor of a packed executable.


def test_build_floor_of_a_checkout_is_the_constant(tmp_path: Path) -> None:
    assert build_floor.build_floor(tmp_path).date() == build_floor.CHECKOUT


def test_build_floor_of_a_packed_executable_is_its_build_day(tmp_path: Path) -> None:
    build_floor.write(tmp_path, date(2027, 3, 4))
    assert build_floor.build_floor(tmp_path) == datetime(2027, 3, 4, tzinfo=UTC)


def test_damaged_build_floor_raises_value_error(tmp_path: Path) -> None:
    build_floor.write(tmp_path, date(2027, 3, 4))
    (tmp_path / build_floor.FILE).write_text("soon")
    with pytest.raises(ValueError, match="soon"):
        build_floor.build_floor(tmp_path)
