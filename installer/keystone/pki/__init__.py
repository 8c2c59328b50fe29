"""The site's authorities and certificates."""
