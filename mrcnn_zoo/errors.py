"""The error for what a user can put right."""


class UserError(ValueError):
    """A mistake in a config, a file or an argument; the message says where and what to do.

    The command line prints the message alone, without a traceback.
    """
