"""`python -m server` is `octavo serve`."""

from server.cli.serve import serve

serve(prog_name="python -m server")
