"""Keystone: one signed bundle and a site file become a Kubernetes platform, with no internet."""

__version__ = "0.1.0"
