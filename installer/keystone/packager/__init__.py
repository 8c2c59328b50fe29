"""What a packager does outside: definition, lock, bundle. Alone in this, it uses the network."""
