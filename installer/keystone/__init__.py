"""Keystone installs a Kubernetes platform from one signed bundle and a site file, offline."""

__version__ = "0.1.0"
