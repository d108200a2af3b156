"""Scores and a budget in, the channels that go out."""
