"""How a worker becomes a node of the site: token, request, certificate."""
