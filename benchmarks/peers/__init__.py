"""The contenders. A module builds its Step for one work and setting, and imports its library only then."""
