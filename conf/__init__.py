"""The configuration of the commands: a group is a role, a file a choice. Wiring only, no logic."""
