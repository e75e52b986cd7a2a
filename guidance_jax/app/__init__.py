"""The command line and its demos: everything that is product, not library."""
