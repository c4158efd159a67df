"""The story of `blindai demo cloud`: an account, a key, a model of one's own, and who else may use it."""
