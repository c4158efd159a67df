"""The one place that decides: the same work for what is hidden and what is missing."""

from __future__ import annotations

from collections import Counter

import pytest

from blindai.enclave.cloud.access import RULES, Access, Need
from blindai.enclave.cloud.principal import Principal, anonymous
from blindai.enclave.cloud.usage import Usage
from blindai.enclave.models.model_id import ModelId
from blindai.errors import BlindAIError
from blindai.wire.cloud import ModelVisibility, Scope, Visibility

PRIVATE = ModelVisibility(Visibility.PRIVATE)
SHARED = ModelVisibility(Visibility.SHARED, ("partner",))

MODELS = {
    ModelId("acme", "private"): PRIVATE,
    ModelId("acme", "shared"): SHARED,
    ModelId("acme", "public"): ModelVisibility(Visibility.PUBLIC),
}


class Looked:
    """Who may query which model, and how often that was looked up."""

    def __init__(self) -> None:
        self.names: Counter[ModelId] = Counter()

    def __call__(self, model_id: ModelId) -> ModelVisibility:
        self.names[model_id] += 1
        return MODELS.get(model_id, PRIVATE)


def caller(namespace: str | None, *scopes: Scope) -> Principal:
    usage = Usage(100)
    if namespace is None:
        return anonymous(usage.anonymous)
    return Principal(usage.count(namespace, "bai_sk_00000000"), "00" * 32, frozenset(scopes or Scope))


def refusal(access: Access, handler: str, who: Principal, name: str) -> BlindAIError:
    with pytest.raises(BlindAIError) as raised:
        access.check(RULES[handler], who, ModelId("acme", name))
    return raised.value


@pytest.mark.parametrize("who", [caller(None), caller("other"), caller("partner")], ids=["nobody", "other", "partner"])
@pytest.mark.parametrize("handler", [handler for handler, rule in RULES.items() if rule.need is Need.MODEL])
def test_what_is_hidden_is_looked_up_and_refused_as_what_is_missing(handler: str, who: Principal) -> None:
    looked = Looked()
    access = Access(looked)
    hidden, missing = (refusal(access, handler, who, name) for name in ("private", "absence"))
    assert (hidden.code, hidden.hint) == (missing.code, missing.hint) == ("model.not_found", "")
    assert hidden.message.replace("private", "absence") == missing.message
    assert looked.names == {ModelId("acme", "private"): 1, ModelId("acme", "absence"): 1}


@pytest.mark.parametrize("handler", [handler for handler, rule in RULES.items() if rule.need is Need.OWN])
def test_what_is_the_owner_s_is_decided_by_the_name_alone(handler: str) -> None:
    looked = Looked()
    access = Access(looked)
    for name in ("private", "shared", "public", "absence"):
        assert refusal(access, handler, caller("partner"), name).code == "permission.namespace"
        assert refusal(access, handler, caller(None), name).code == "authentication.required"
    assert not looked.names


@pytest.mark.parametrize("scope", list(Scope))
def test_a_scope_is_no_other_scope(scope: Scope) -> None:
    access, who = Access(Looked()), caller("acme", scope)
    for handler, rule in RULES.items():
        if rule.need in {Need.NOTHING, Need.REFUSED}:
            continue
        if rule.scope is scope:
            access.check(rule, who, ModelId("acme", "private"))
        else:
            assert refusal(access, handler, who, "private").code == "permission.scope"


@pytest.mark.parametrize("namespace", ["acm", "acme2", "a", "acme-", "ACME"])
def test_a_namespace_that_looks_alike_is_another(namespace: str) -> None:
    assert refusal(Access(Looked()), "infer", caller(namespace), "private").code == "model.not_found"
    assert refusal(Access(Looked()), "delete", caller(namespace), "private").code == "permission.namespace"


def test_shared_is_with_those_who_are_named() -> None:
    access = Access(Looked())
    access.check(RULES["infer"], caller("partner"), ModelId("acme", "shared"))
    assert refusal(access, "infer", caller("partner2"), "shared").code == "model.not_found"
    assert refusal(access, "infer", caller(None), "shared").code == "model.not_found"
