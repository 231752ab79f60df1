"""The training: one generic step, the loop around it, and what it keeps on disk."""
