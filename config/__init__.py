"""Configuration of the commands: schemas, defaults, overrides, help, and what may change when a run is resumed."""
