"""`octavo bench`: what a completions server does under load, seen from a client.

`datasets` says what is asked, `load` when, `exchange` and `answer` do one request, `metrics` counts
and `report` shows. Nothing here tokenizes: tokens are counted by the server or not at all.
"""
