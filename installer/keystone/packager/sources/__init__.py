"""Where upstream artefacts come from: the only door to the network."""
