"""config: the commands of `secret`, for configs."""

from swarmctl.secret import commands_of

COMMANDS = commands_of("config")
