"""Job types about text."""
