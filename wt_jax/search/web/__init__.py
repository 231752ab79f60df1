"""The page of an index: `serve` runs it, `app` answers, `security` decides who may ask."""
