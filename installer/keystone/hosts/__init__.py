"""Observe hosts: facts about each, in one round trip."""
