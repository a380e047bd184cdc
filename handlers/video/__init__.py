"""Job types of films."""
