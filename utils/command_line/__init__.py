"""The command lines of `key=value` that all commands share: values as typed, help taken from the schemas."""
