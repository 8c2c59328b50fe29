"""An installation: observe the hosts, plan, get approval, apply phase by phase."""
