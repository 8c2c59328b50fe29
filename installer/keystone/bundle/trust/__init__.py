"""Whose bundle it is: signatures, versions and dates (TUF)."""
