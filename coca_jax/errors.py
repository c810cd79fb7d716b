"""The errors a user can fix, the way a run asks to be continued, and the exit codes of both."""

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of a `coca` process."""

    DONE = 0
    BUG = 1  # Python's own, of an exception that nobody caught
    USER_ERROR = 2  # in the call, the configuration, the data or the environment
    PREEMPTED = 3  # stopped by a signal after saving: run it again to go on
    PEER_LOST = 4  # another process of the run was lost: run it again to go on
    INCOMPLETE = 5  # done, but some inputs could not be used
    INTERRUPTED = 130  # 128 + SIGINT, as shells say it


class UserError(Exception):
    """Something is wrong with the call, the configuration or the data; the CLI exits with 2.

    The message names the thing that is wrong, its value, and what would be right.
    """


class NotFinite(UserError):
    """A step of a training has a loss, a gradient or new parameters that are not finite."""


class Preempted(Exception):
    """The run was asked to stop and has saved its state; the CLI exits with 3."""


class Incomplete(Exception):
    """The command is done, but some inputs could not be used; the CLI exits with 5.

    Each of those inputs is named before this is raised.
    """
