"""A bundle that carries only what a store does not hold."""
