"""`octavo chat`: a conversation with a model, through the server's completions.

`conversation` is what was said, `prompt` how it becomes a prompt, `answer` asks the server,
`commands` are the words that begin with a slash, `session` is the loop, `reading` where lines come
from.
"""
