"""A synthetic world for tests and the demo, and checkpoints small enough to be made on the spot."""
