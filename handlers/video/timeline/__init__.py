"""The timeline of a film, version 1: what may be asked for, what is wrong with it, and the plan that follows."""
