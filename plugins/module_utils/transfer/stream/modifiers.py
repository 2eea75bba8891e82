# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which of the server's own types holds every value of another, with their modifiers. Pure.

Numbers: pg_type.dat of PostgreSQL, the same on every server. Modifiers: as in pg_attribute.atttypmod.
"""

from __future__ import annotations

# Type, and the array of it.
_BPCHAR, _VARCHAR, _NUMERIC, _INTERVAL, _BIT, _VARBIT = (1042, 1014), (1043, 1015), (1700, 1231), (1186, 1187), (1560, 1561), (1562, 1563)
_TIMES = (1083, 1183, 1266, 1270, 1114, 1115, 1184, 1185)
_FINEST = 6
_INT2, _INT4, _INT8, _TEXT = 21, 23, 20, 25
_WIDER = {(_INT2, _INT4), (_INT2, _INT8), (_INT4, _INT8), (_VARCHAR[0], _TEXT), (_TEXT, _VARCHAR[0])}


def wider(sent: int, received: int, modifier: int) -> bool:
    """Whether another type holds, and prints, every value of the sent one. modifier: of the receiver's."""
    return (sent, received) in _WIDER and modifier == -1


def narrower(oid: int, sent: int, received: int) -> bool:
    """Whether a receiver's modifier of the same type refuses, cuts or rounds what the sender's allows, or prints it in another way."""
    if received == -1 or sent == received:
        return False
    if oid in _VARCHAR or oid in _VARBIT:
        return sent == -1 or received < sent
    if oid in _NUMERIC:
        if sent == -1:
            return True
        return _scale(sent) != _scale(received) or _precision(received) < _precision(sent)
    if oid in _TIMES:
        return received < (_FINEST if sent == -1 else sent)
    # Padded or counted exactly (char, bit), or of a meaning that only the type knows (interval, extensions).
    return True


def _precision(modifier: int) -> int:
    return (modifier - 4) >> 16 & 0xFFFF


def _scale(modifier: int) -> int:
    # Eleven bits with a sign since PostgreSQL 15, which read the older ones alike.
    scale = (modifier - 4) & 0x7FF
    return scale - 0x800 if scale & 0x400 else scale
