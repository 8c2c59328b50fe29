from variants import Variant

CLASSES = {}
CODES = {}


def honest(rng):
    return Variant(b"", "")
