"""The bundle: the one signed file that crosses the air gap."""
