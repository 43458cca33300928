"""Int8 models of the peers and their profiles; runs in the peers' environment, without torch."""
