"""Where videos come from: folders, lists, indices, packed shards, TFDS."""
