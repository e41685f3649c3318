"""What the engine raises. Every message is one line for the user: what, where, what to do.

OctavoError
├── CheckpointError    a model cannot be found, fetched, read or understood
│   └── ModelAbsentError   it is not here yet, and may not be fetched now
├── EngineStartError   the engine process did not come up
├── EngineDeadError    the engine process went away under a request
└── SlowReaderError    nobody takes what comes for a request
"""


class OctavoError(Exception):
    """Base of all errors that a user is meant to read."""


class CheckpointError(OctavoError):
    """A model cannot be found, fetched, read or understood."""


class ModelAbsentError(CheckpointError):
    """A model that could be fetched is not on this machine, and was not to be fetched (offline)."""


class EngineStartError(OctavoError):
    """The engine process did not come up."""


class EngineDeadError(OctavoError):
    """The engine process went away under a request."""


class SlowReaderError(OctavoError):
    """Nobody takes what comes for a request, and it is too much to be kept."""
