"""The store of a Primer: ingest, keep, publish and serve a bundle."""
