"""Read and verify a bundle."""
