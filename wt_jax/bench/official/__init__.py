"""Our methods and recipes beside the published code, run as it is: one table (extra `peers`); nothing else imports this."""
