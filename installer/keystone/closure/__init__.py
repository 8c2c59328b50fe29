"""Check the closure of a bundle: everything that its content needs must be in the bundle.

One module per kind of reference, each a function from the bundle's content to findings; `check`
runs them all. Roles are rendered with the variables from keystone.ansible.roles, so this package
cannot be part of keystone.bundle.
"""
