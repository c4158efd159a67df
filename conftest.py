"""Root of the tests' configuration: plugins that hold for every folder."""

pytest_plugins = ["figures", "mutations", "skip_guard"]
