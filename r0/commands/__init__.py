"""One file a command of the door: ``run(config, dry_run) -> exit code``."""
