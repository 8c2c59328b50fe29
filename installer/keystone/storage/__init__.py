"""Disks to pools to datasets."""
