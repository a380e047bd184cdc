"""Job types: one module each, and in `runtime` the inside of the executor that runs them."""
