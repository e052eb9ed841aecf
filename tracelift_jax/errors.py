"""The exceptions that are no bugs: "the user can mend this", and "start it again".

`tracelift` prints them as a single line and exits with code 2 or 75; everything else is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do."""


class Interrupted(Exception):
    """A run could not go on now, and lost nothing: it was asked to stop and has a checkpoint, or waited for others."""
