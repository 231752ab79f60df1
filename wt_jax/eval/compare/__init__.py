"""Several methods over several seeds, compared."""
