"""One file per command: ``run(config, dry_run) -> exit code``."""
