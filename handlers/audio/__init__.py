"""Job types of sound."""
