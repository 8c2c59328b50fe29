"""The sealed backup of a site: one file, outside the site, that only its operator can open."""
