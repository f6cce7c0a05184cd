"""Entry points: compose a configuration and call meta."""
