"""etcd and Kubernetes: their configuration, and the state that they report."""
