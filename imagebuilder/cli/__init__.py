"""The command line: parses options, asks questions, prints. What needs no screen is in other packages."""
