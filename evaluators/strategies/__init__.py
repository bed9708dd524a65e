"""Test-time strategies, which spend more compute on an answer."""
