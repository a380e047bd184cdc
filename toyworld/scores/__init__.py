"""How good the toy checkpoints are, on what they have never seen: one module for each."""
