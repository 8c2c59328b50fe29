"""`python -m keystone`: the same as the console script `keystone-install`."""

from keystone.cli import main

main()
