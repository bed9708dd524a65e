"""What a command may be told: schemas, defaults, overrides, help and resuming."""
