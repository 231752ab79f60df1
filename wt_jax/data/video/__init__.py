"""One video: decoding, random access, and its planes."""
