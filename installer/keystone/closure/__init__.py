"""Whether a bundle is whole: nothing inside asks for anything that is not inside.

One module a kind of reference, each a function from the bundle's content to findings; `check` runs
them all. Roles are followed with the variables that keystone.ansible.roles gives them, which is why
this is not part of keystone.bundle.
"""
