"""The checksum of Bech32 (BIP 173), in which age writes public keys: it finds every typing mistake.

Here and not from pyrage: `site check` also runs where its compiled module does not.
"""

from __future__ import annotations

LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def is_valid(text: str) -> bool:
    """Return whether the checksum of a text in lower case is right."""
    prefix, _, data = text.rpartition("1")
    if not prefix or any(letter not in LETTERS for letter in data):
        return False
    values = [*(ord(one) >> 5 for one in prefix), 0, *(ord(one) & 31 for one in prefix)]
    check = 1
    for value in (*values, *map(LETTERS.index, data)):
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, factor in enumerate(_GENERATOR):
            check ^= factor if top >> bit & 1 else 0
    return check == 1
