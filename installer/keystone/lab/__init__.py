"""The built-in lab: an upstream mirror, a plain base image, machines on an isolated network."""
