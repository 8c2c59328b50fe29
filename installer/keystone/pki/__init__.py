"""The trust tree of a site: its authorities, certificates and keys."""
