"""Array operations that the networks share, each with a default in XLA and a faster form where the platform has one."""
