"""The lab: an upstream mirror on loopback, a base image, and machines with no way out."""
