"""The site file: its model, its checks, a template, and the introductions of its Primers."""
