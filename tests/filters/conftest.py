"""Hypothesis without deadlines: tests assert behaviour, not speed."""

from hypothesis import settings

settings.register_profile("filters", deadline=None)
settings.load_profile("filters")
