"""Storage of a Primer: a ZFS pool on its disks, with datasets."""
