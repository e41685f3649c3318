"""The bounds of one HTTP request, each written once. Limits of the model come from the engine."""

from __future__ import annotations

MAX_URL_BYTES = 8 * 1024
MAX_HEADER_BYTES = 32 * 1024  # names and values together
MAX_HEADERS = 100
MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_LARGE_BODIES = 64  # of that size in memory at a time, all smaller ones counted by bytes
MAX_CONTAINERS = 200_000  # arrays and objects of a body, which take most of the time to parse it
FREE_BODY_BYTES = (
    64 * 1024
)  # of each body that count for nothing: a connection's buffer has as much
MAX_PIPELINED = 128  # requests that wait for the answer to an earlier one on their connection
MAX_READ_AHEAD = 16  # of these; with more of them nothing is read before the next answer
RECEIVE_DEADLINE_SECONDS = 30.0  # from the first byte of a request to its last
LINGER_SECONDS = 5.0  # for a client that still sends to notice that it was refused
LAST_WORDS_SECONDS = 0.5  # for requests that the end of the server ends, to be told so

MAX_MODEL_NAME = 256
MAX_CHOICES = 128  # `n`, as in OpenAI's specification
MAX_PROMPTS = 1024
MAX_BEST_OF = 20
MAX_SEQUENCES = 1024  # prompts x n, or x best_of
MAX_TOKENS = 2**31 - 1
MAX_STOP_STRINGS = 16  # OpenAI says 4, an evaluation harness sends 6
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024
MAX_LOGPROBS = 20
MAX_BAD_WORDS = 128
MAX_BAD_WORD_LENGTH = 256
MAX_CACHE_SALT_LENGTH = 128
MAX_USER_LENGTH = 512

MAX_ANSWER_BYTES = 64 * 1024 * 1024  # of prompts, token ids and log-probabilities, estimated
BYTES_PER_LOGPROB = 32  # of an answer: a token's text and a number
BYTES_PER_RANKED_TOKEN = 64  # the same in `prompt_logprobs`, where it is an object
BYTES_PER_TOKEN_ID = 8

MAX_NAMES = 100  # of an object in a request, and what is looked at for a misspelt one
MAX_REPORTED_PROBLEMS = 10  # of one request
MAX_ECHOED_CHARACTERS = 200  # of a client's input, in an error message
MAX_ECHOED_NAME = 64

TOKENIZE_INLINE_CHARACTERS = 16 * 1024  # longer prompts are tokenized in a thread
MAX_TEXT_THREADS = 4
MAX_TEXTS_WAITING = 128  # for one of these threads
MAX_MESSAGES = 1024  # of a conversation
MAX_ROLE_LENGTH = 64
MAX_RENDERINGS = 2  # of chat templates at a time, each a process
MAX_RENDERINGS_WAITING = 32
RENDERING_SECONDS = 15.0  # of which the process may compute for 5
RETRY_AFTER_SECONDS = 2
HTTP_KEEP_ALIVE_SECONDS = 75  # connection pools hold idle connections for 60
STALL_SECONDS = 60.0  # for a client that does not read to go on
MIN_READ_BYTES = 64 * 1024  # in that time, of an answer that is longer
MAX_UNREAD_BYTES = 256 * 1024 * 1024  # of the answers that clients are slow to read, all together
MAX_CONNECTIONS = 4096
PROBE_AFTER_SECONDS = 30  # of silence the system asks whether the client's machine is there,
PROBE_SECONDS = 10  # so often,
MAX_PROBES = 3  # so many times
