"""Machine and disk: devices, processes, checkpoints, loggers, files, the hub."""
