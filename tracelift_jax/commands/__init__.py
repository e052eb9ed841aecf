"""The commands of `tracelift`, by name: for each its arguments, what it does, and an example.

What is heavy is imported by the command that needs it, so that `--help` and bad flags answer at once.
"""

from tracelift_jax.commands import data, planners, reward_models, training
from tracelift_jax.commands.command import Command as Command
from tracelift_jax.commands.command import Given as Given

COMMANDS = training.COMMANDS | planners.COMMANDS | reward_models.COMMANDS | data.COMMANDS
