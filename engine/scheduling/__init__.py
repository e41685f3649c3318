"""Policy in plain Python: what is computed next, for whom, in which pages; what came of it."""
