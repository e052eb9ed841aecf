"""The one exception that means "the user can mend this".

`tracelift` prints it as a single line and exits with code 2; everything else is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do."""
