"""What each role is told: one file a role, one pure function `variables(context)`.

Python decides topology, names and paths; a role only converges the host it runs on. Every value
here is complete: roles look up nothing on other hosts. tests/unit/test_contracts.py compares the
result with each role's argument_specs, both ways.
"""
