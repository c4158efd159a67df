"""Root of the tests' configuration: plugins that hold for every folder."""

pytest_plugins = ["custodian", "figures", "mutations", "postgresql", "skip_guard"]
