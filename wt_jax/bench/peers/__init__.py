"""Other people's loaders, run on the same work for comparison (extra `bench`); nothing else imports them."""
