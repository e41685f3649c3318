"""One completion request: admitted, run, turned into text, written as JSON or as events."""
