"""The configurations: one file each, `get_config(method)`."""
