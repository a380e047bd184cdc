"""How the toy checkpoints are trained: one script for each model, one loop for all."""
