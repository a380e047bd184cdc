"""Job types about pictures."""
