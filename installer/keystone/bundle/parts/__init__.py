"""Split a bundle into parts that fit on media and that are verified one by one."""
