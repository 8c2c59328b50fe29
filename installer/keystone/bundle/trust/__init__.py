"""Trust in a bundle: signatures, versions and dates (TUF)."""
