"""The commands: composing a configuration, checking what was typed, sweeps, and what each command then calls."""
