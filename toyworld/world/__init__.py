"""The toy world: coloured shapes in places, questions about them, words that are spoken; all of it from a seed."""
