"""The playground: a digit is drawn, and goes to a model through the proxy on the visitor's own machine.

The page itself comes from this server, and with it the script that reads the drawing. So the policy of this one page
lets its script connect to the visitor's machine and nowhere else, and the page says that it is a demonstration: what
does not rest on the operator's word is the proxy, which attests the enclave before anything leaves the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from blindai.cloud.accounts import Action
from blindai.cloud.console.overview import endpoint
from blindai.cloud.console.visit import ACCOUNT, Address, Visit
from blindai.web.pages import let_connect
from blindai.wire.cloud import ModelListing
from blindai.wire.metadata import VARIABLE

if TYPE_CHECKING:
    from starlette.responses import Response

    from blindai.wire.metadata import TensorMetadata

# Where a proxy listens. No other host: the page is for a proxy of the visitor's own.
PROXY: Final = "http://127.0.0.1:*"
DEFAULT_PORT: Final = 8080

# As `examples/digits` has it. The page's script checks the same, by what the enclave itself says of the model.
IMAGES: Final = ((64,), (8, 8), (1, 8, 8))
SCORES: Final = 10


def takes_digits(model: ModelListing) -> bool:
    """Whether `model` takes an image of 8 by 8 pixels and gives a score for each digit."""
    return len(model.inputs) == 1 and _is_image(model.inputs[0]) and any(map(_is_scores, model.outputs))


def choices(models: Iterable[ModelListing]) -> tuple[str, ...]:
    """The ids of `models`, those that take digits first."""
    fit = {f"{one.namespace}/{one.name}": takes_digits(one) for one in models}
    return tuple(sorted(fit, key=lambda name: (not fit[name], name)))


async def playground_page(visit: Visit) -> Response:
    """The page, with a policy of its own."""
    listed = await visit.ask(visit.plane.fleet.models, visit.namespace)
    models = choices(one.listing for one in listed)
    chosen = visit.query("model") or next(iter(models), "")
    let_connect(visit.request, PROXY)
    return visit.page(
        "playground.html",
        models=models,
        chosen=chosen,
        endpoint=await endpoint(visit, chosen.partition("/")[0]),
        port=DEFAULT_PORT,
    )


def _is_image(tensor: TensorMetadata) -> bool:
    return tensor.datatype == "FP32" and tensor.shape[:1] in {(VARIABLE,), (1,)} and tensor.shape[1:] in IMAGES


def _is_scores(tensor: TensorMetadata) -> bool:
    return tensor.datatype == "FP32" and tensor.shape in {(VARIABLE, SCORES), (1, SCORES)}


ADDRESSES: Final = (Address("GET", ACCOUNT + "/playground", playground_page, Action.VIEW),)
