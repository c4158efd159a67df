"""What each route of the enclave needs, and the one place that decides whether a caller has it.

A route that this table does not list does not start. What somebody may not see is answered as what does not exist:
both are looked up once, in the same way, and refused in the same words.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

from blindai.enclave.models.model_version import not_found
from blindai.errors import AuthenticationError, BlindAIError, PermissionDenied
from blindai.wire.cloud import Scope, Visibility

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from blindai.enclave.cloud.principal import Principal
    from blindai.enclave.models.model_id import ModelId
    from blindai.wire.cloud import ModelVisibility


class Need(Enum):
    """What a caller must have besides the scope."""

    NOTHING = auto()
    """Not even a key; nobody counts it."""
    KEY = auto()
    """A key; the answer holds what its account may see."""
    MODEL = auto()
    """A model that the caller may query."""
    OWN = auto()
    """A name in the key's own namespace, whether or not there is a model."""
    REFUSED = auto()
    """It is nobody's business here."""


class Rule(NamedTuple):
    """What a route needs.

    Attributes:
        need: see there.
        scope: that the key must have.
        query: it goes the way of queries (`cloud.queries`), which decides when the model is known.
    """

    need: Need
    scope: Scope = Scope.QUERY
    query: bool = False


_OPEN: Final = Rule(Need.NOTHING)
_MODEL: Final = Rule(Need.MODEL)

QUERY: Final = Rule(Need.MODEL, query=True)

RULES: Final[Mapping[str, Rule]] = {
    "server_metadata": _OPEN,
    "live": _OPEN,
    "ready": _OPEN,
    "openapi": _OPEN,
    "attestation": _OPEN,
    # It shows the model on loan, and that alone, to those with a token of its custodian.
    "model_lease": _OPEN,
    "model_metadata": _MODEL,
    "model_ready": _MODEL,
    "model_config": _MODEL,
    "describe_model": _MODEL,
    "infer": QUERY,
    "embed": QUERY,
    "index": Rule(Need.KEY),
    "list_models": Rule(Need.KEY),
    "all_statistics": Rule(Need.KEY),
    "model_statistics": Rule(Need.OWN),
    "upload": Rule(Need.OWN, Scope.UPLOAD),
    "load": Rule(Need.OWN, Scope.UPLOAD),
    "unload": Rule(Need.OWN, Scope.UPLOAD),
    "visibility": Rule(Need.OWN, Scope.UPLOAD),
    "set_visibility": Rule(Need.OWN, Scope.UPLOAD),
    "delete": Rule(Need.OWN, Scope.DELETE),
    # Figures over all accounts would tell each of them what the others do.
    "metrics": Rule(Need.REFUSED),
}
"""By the name of a route's handler."""


def rules_for(handlers: Iterable[str]) -> dict[str, Rule]:
    """The rules of these handlers.

    Raises:
        LookupError: one has none, or a rule is for none of them.
    """
    named = set(handlers)
    if named != RULES.keys():
        raise LookupError(f"routes and rules of access differ: {sorted(named ^ RULES.keys())}")
    return {handler: RULES[handler] for handler in named}


class Access:
    """Decides.

    Args:
        visibility: who may query a model; for one that does not exist, nobody but its namespace.
    """

    def __init__(self, visibility: Callable[[ModelId], ModelVisibility]) -> None:
        self._visibility = visibility

    def check(self, rule: Rule, caller: Principal, model_id: ModelId | None) -> None:
        """Return if `caller` may do what needs `rule`, with the model of this name where the route has one.

        Raises:
            AuthenticationError: `authentication.required`.
            PermissionDenied: `permission.namespace`, `permission.scope`, `permission.metrics`.
            ModelNotFound: `model.not_found`.
        """
        need = rule.need
        if need is Need.NOTHING:
            return
        if need is Need.REFUSED:
            raise PermissionDenied(
                "an enclave that many share shows no figures over all of them",
                code="permission.metrics",
                hint="the console of the cloud shows what an account has used",
            )
        if caller.namespace is None and need is not Need.MODEL:
            raise _key_required()
        if need is Need.OWN and (model_id is None or model_id.namespace != caller.namespace):
            raise PermissionDenied(
                "the API key is of another namespace than this model",
                code="permission.namespace",
                hint="use a key of the account that the model's name begins with",
            )
        if rule.scope not in caller.scopes:
            raise PermissionDenied(
                f"the API key has no scope `{rule.scope}`",
                code="permission.scope",
                hint=f"make one that has: blindai keys create NAME --scope {rule.scope}",
            )
        if need is Need.MODEL and (model_id is None or not self.may_query(caller, model_id)):
            raise not_found(f"the model {model_id}")

    def may_query(self, caller: Principal, model_id: ModelId) -> bool:
        """Whether a model of this name, were there one, is there for `caller`."""
        who = self._visibility(model_id)
        return (
            model_id.namespace == caller.namespace
            or who.visibility is Visibility.PUBLIC
            or (who.visibility is Visibility.SHARED and caller.namespace in who.shared_with)
        )

    def is_listed(self, caller: Principal, model_id: ModelId) -> bool:
        """Whether `caller` finds a model in lists: its own, and what was shared with it. Public ones it must name."""
        who = self._visibility(model_id)
        return model_id.namespace == caller.namespace or (
            who.visibility is Visibility.SHARED and caller.namespace in who.shared_with
        )


def _key_required() -> BlindAIError:
    return AuthenticationError(
        "this needs an API key",
        code="authentication.required",
        hint="send one as Authorization: Bearer bai_sk_..., or pass api_key= to the connection",
    )
