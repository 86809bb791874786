"""The history of the cards: events of earlier runs, warnings based on them, and saved block maps."""
