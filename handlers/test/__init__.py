"""Job types for measuring and for tests; registered only when asked for."""
