"""The evaluation protocols."""
