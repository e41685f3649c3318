"""`python -m octavo_client` is the command `octavo`."""

from octavo_client.cli import main

main(prog_name="octavo")
