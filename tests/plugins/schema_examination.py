"""What schemathesis finds out about a server that describes itself (OpenAPI), with all of its checks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import schemathesis
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events

SEED: Final = 20261121

# For requests that the schema allows and the server refuses with 400 all the same: what is wrong with them no schema
# can say.
BEYOND_SCHEMA: Final = {
    "positive_data_acceptance": {"expected-statuses": ["2xx", "3xx", "400", "401", "403", "404", "409", "429"]}
}


@dataclass
class Examination:
    """What was done and found.

    Attributes:
        operations: that were called, as "GET /path".
        requests: by phase.
        checks: that were made, by name.
        statuses: of answers.
        failures: one of each check and operation, with words and a request that shows it.
    """

    operations: set[str] = field(default_factory=set)
    requests: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """For the figures of a run."""
        phases = ", ".join(f"{count} {phase}" for phase, count in sorted(self.requests.items()))
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        return (
            f"{len(self.operations)} operations, {self.requests.total()} requests ({phases}), "
            f"{self.checks.total()} checks of {len(self.checks)} kinds, {len(self.failures)} failures; "
            f"answers {answers}"
        )

    def add(self, event: events.ScenarioFinished) -> None:
        """Count what was done in one scenario."""
        recorder = event.recorder
        self.operations |= {node.value.operation.label for node in recorder.cases.values()}
        for interaction in recorder.interactions.values():
            self.requests[event.phase.value] += 1
            if interaction.response is not None:
                self.statuses[interaction.response.status_code] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                self.checks[check.name] += 1
                if check.failure_info is not None:
                    where = recorder.cases[case_id].value.operation.label
                    words = f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}"
                    self.failures.setdefault((check.name, where), words)


def examine(description: str, *, examples: int, **settings: Any) -> Examination:
    """Let schemathesis loose on a server.

    Args:
        description: address of its OpenAPI document.
        examples: of each operation and phase, at most.
        settings: of schemathesis' project, as its configuration file has them.
    """
    config = SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "continue-on-failure": True,
            "generation": {"max-examples": examples, "deterministic": True, "database": "none", "no-shrink": True},
            **settings,
        }
    )
    schema = schemathesis.openapi.from_url(description, config=config, verify=settings.get("tls-verify", True))
    found = Examination()
    for event in engine.from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            found.failures["error", getattr(event, "label", "")] = str(event)
        elif isinstance(event, events.ScenarioFinished):
            found.add(event)
    return found
