"""The order of things: which stage follows which."""
