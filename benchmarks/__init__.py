"""Neo against its peers, each in a process of its own, in turns; and algorithms and nets side by side."""
