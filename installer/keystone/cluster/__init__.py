"""The quorum and Kubernetes: what they are told, and what they answer."""
