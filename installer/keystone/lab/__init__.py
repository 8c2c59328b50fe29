"""The built-in lab: an upstream mirror, a plain base image, and emulated machines with no way out."""
