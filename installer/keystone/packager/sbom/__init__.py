"""Make SBOMs and provenance: inventories of a bundle's blobs, and the documents made from them.

Each blob is read once, as a stream, and its inventory is cached by its digest (`inventories`).
`describe` makes SPDX, CycloneDX and provenance documents from a lock and the inventories; the
documents become locked blobs like any other. See docs/adr/0046-sbom-at-lock-time.md.
"""
