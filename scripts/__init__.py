"""The commands: each composes its configuration and calls what does the work."""
