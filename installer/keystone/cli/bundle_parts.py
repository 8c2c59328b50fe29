import click
def verify(*a, **k): return False
split = click.Command("split")
join = click.Command("join")
