"""Features of whole data sets."""
