"""Progress renderers: plain lines, JSON lines, and bars at a terminal."""
