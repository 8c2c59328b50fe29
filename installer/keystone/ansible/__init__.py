"""Runs Ansible playbooks on hosts, and computes the variables of each role."""
