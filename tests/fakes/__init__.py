"""Stand-ins that tests move by hand."""
