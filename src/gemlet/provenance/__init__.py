"""Where files come from, what terms they are under, and whether they are what they say they are."""
