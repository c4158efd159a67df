"""Root of the tests' configuration: plugins that hold for every folder."""

pytest_plugins = ["figures", "mutations", "postgresql", "skip_guard"]
