"""What happened to each card in earlier runs: stored events, warnings made from them, and kept block maps."""
