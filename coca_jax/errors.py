"""The errors a user can mend, and the way a run asks to be continued."""


class UserError(Exception):
    """A mistake in the call, the configuration or the data; the CLI prints it and exits with 2.

    The message names the thing that is wrong, its value, and what would be right.
    """


class Preempted(Exception):
    """The run was asked to stop and has saved its state; the CLI exits with 3."""


class Incomplete(Exception):
    """All is done but for some inputs that could not be used; the CLI exits with 5.

    Each of those is named before this is raised.
    """
