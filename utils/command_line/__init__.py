"""Command lines of `key=value` arguments: values are taken as typed, and help comes from the schemas."""
