"""How each command is called: arguments, options, help and examples; what it does is in ``cli/commands/``."""
