"""The live screen of a long run: events change a model, and a view draws it."""
