"""Adapters to the libraries of other projects, one module each; import the one that you need."""
