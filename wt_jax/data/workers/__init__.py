"""Worker processes of the loader, and the memory that they share with it."""
