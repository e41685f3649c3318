"""The API as it goes over the wire: bodies, fields, limits and errors. Knows no engine, no text."""
