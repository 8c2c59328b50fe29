"""A bundle in parts that fit on media, verified one by one."""
