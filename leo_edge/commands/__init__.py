"""The subcommands of `leo-edge`, a module each: `add_arguments(parser)` and `run(args)`, which returns the exit code."""
