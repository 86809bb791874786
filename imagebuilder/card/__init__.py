"""Writing one card and reading it back: the source, the writer, retries, verdicts and reports."""
