"""The upstream mirror: upstream's artefacts, fetched or built, served on loopback."""
