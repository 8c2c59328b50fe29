"""The built-in lab: an upstream mirror, a plain base image, machines with no way out."""
