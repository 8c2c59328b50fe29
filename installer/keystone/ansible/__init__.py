"""Runs playbooks on hosts, and says what each role is told."""
