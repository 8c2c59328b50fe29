"""What every byte of a bundle is: inventories of blobs, and the documents made of them.

A blob is read once, as a stream, and what was found in it is kept by its digest (`inventories`).
`describe` makes SPDX, CycloneDX and provenance of a lock and its inventories; they become locked
blobs like any other. See docs/adr/0046-sbom-at-lock-time.md.
"""
