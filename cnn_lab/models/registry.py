"""Models by name: every file of architectures registers its own, by a decorator beside the code.

    @register(
        "lenet5",
        "LeNet-5",
        "LeCun et al. 1998, Proceedings of the IEEE 86(11)",
        (32, 32, 1),
        num_parameters=61_706,
    )
    def lenet5(num_classes: int, activation: str = "tanh") -> Classifier:
        ...

The files of this package are imported when the first name is looked up. A model of your own is
registered in the same way by a module of yours, which `config.imports` names.

The function explains its options; those that mean the same in several models are explained once, in
`OPTIONS`. A backbone's fields are options of its models by the same names, and `layers`, the
factory of its layers.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cnn_lab import models
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.registry import Registry

if TYPE_CHECKING:
    from cnn_lab.analysis.cost import Cost
    from cnn_lab.models.heads import Classifier, ImageToImage

Make = TypeVar("Make", bound=Callable[..., Any])
Outputs = Literal["logits", "pixel_logits", "images"]
Shape = tuple[int, int, int]
SmallForm = tuple[Mapping[str, Any], Shape]  # options, (h, w, c)

# A model's own explanation comes before these.
OPTIONS = {
    "activation": "name of the activation.",
    "dropout_rate": "share of the pooled features dropped in training.",
    "dropout_scaling": "`training` scales up the values that stay; `evaluation` scales down all "
    "values in evaluation, as in the paper of 2014.",
    "dtype": "of the computation.",
    "kernel_init": "name of the initialiser of convolutions.",
    "order": "`rows` (a row of the image a step) or `pixels` (a pixel a step).",
    "output_activation": "of the reconstruction: `identity` for normalised images, `sigmoid` for "
    "pixels in [0, 1].",
    "stem": "`large` (7x7 convolution and pooling, a quarter of the size) or `small` (3x3 "
    "convolution) for images of some 32 pixels.",
}


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A model that can be asked for by name.

    Attributes:
        make: (num_classes, **options) -> module; its signature declares the options. A model that
            returns images takes a number of classes too and does not look at it.
        title: one line for listings.
        paper: authors, year, venue or arXiv id.
        image_shape: (h, w, c) that the counts refer to, as they do to `num_classes`.
        num_parameters: exact count.
        macs: multiply-accumulates on one image; None where nobody counted.
        outputs: `logits` [n k], `pixel_logits` [n h w k], or `images` [n h w c] like the input.
        small: a form of little arithmetic, for tests and first tries; every file of this package
            has one at least.
    """

    make: "Callable[..., Classifier | ImageToImage]"
    title: str
    paper: str
    image_shape: Shape
    num_parameters: int
    num_classes: int = 10
    macs: int | None = None
    outputs: Outputs = "logits"
    small: SmallForm | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the model is one of this package, whose tests verify it."""
        return self.make.__module__.startswith(f"{models.__name__}.")

    def verify(self, cost: "Cost | None" = None) -> None:
        """Raises a `ConfigError` if the counts are not those of the model.

        Its cost is traced here, unless it is given.
        """
        if cost is None:
            from cnn_lab.analysis.cost import cost_of

            cost = cost_of(self.make(self.num_classes), self.image_shape)
        for field, stated, found in (
            ("num_parameters", self.num_parameters, cost.num_parameters),
            ("macs", self.macs, cost.macs),
        ):
            if stated is not None and stated != found:
                shape = "x".join(map(str, self.image_shape))
                raise ConfigError(
                    f"The model {self.make.__name__} is registered with {field}={stated:_}, but on "
                    f"images of {shape} with {self.num_classes} classes it has {found:_}; correct "
                    f"its registration in {self.make.__module__}.",
                    where=field,
                    found=stated,
                    allowed=f"{found}",
                )


MODELS: Registry[ModelEntry] = Registry("model", models.__name__)


def register(
    name: str,
    title: str,
    paper: str,
    image_shape: Shape,
    *,
    num_parameters: int,
    num_classes: int = 10,
    macs: int | None = None,
    outputs: Outputs = "logits",
    small: SmallForm | None = None,
    variant: Mapping[str, Any] | None = None,
) -> Callable[[Make], Make]:
    """Registers a function (num_classes, **options) -> module under a name; see `ModelEntry`.

    The function is returned as it is, and may be registered several times, as one variant each:
    `variant` gives values of some of its parameters. The keyword-only ones among them are no
    options of the model; the others have this default. A name that is taken, and a parameter that
    has no annotation or no value, are `ConfigError`s.
    """

    def decorate(make: Make) -> Make:
        made = _variant(make, name, variant or {})
        entry = ModelEntry(
            made,
            title,
            paper,
            image_shape,
            num_parameters=num_parameters,
            num_classes=num_classes,
            macs=macs,
            outputs=outputs,
            small=small,
        )
        MODELS.add(name, entry, make)
        return make

    return decorate


def _variant(make: Callable[..., Any], name: str, values: Mapping[str, Any]) -> Callable[..., Any]:
    """A function of that name whose signature declares the options alone."""
    signature = inspect.signature(make)
    first, *others = signature.parameters.values()
    parameters = [first]
    for parameter in others:
        where = f"The parameter {parameter.name} of the model {name} in {make.__module__}"
        if parameter.annotation is parameter.empty:
            allowed = f"annotated with its type, such as {parameter.name}: int"
            raise ConfigError(where=where, found=str(parameter), allowed=allowed)
        if parameter.default is parameter.empty and parameter.name not in values:
            allowed = "given a default, so that it is an option"
            raise ConfigError(where=where, found=str(parameter), allowed=allowed)
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name not in values:
            default = values.get(parameter.name, parameter.default)
            parameters.append(parameter.replace(default=default))
    for key in values:
        if key not in signature.parameters:
            problem = f"The model {name} in {make.__module__} has no parameter {key}"
            raise ConfigError(problem, where=name, found=key, allowed=signature.parameters)
    if not values and make.__name__ == name:
        return make
    declared = signature.replace(parameters=parameters)

    @functools.wraps(make)
    def made(*args: Any, **options: Any) -> Any:
        return make(**{**values, **declared.bind(*args, **options).arguments})

    made.__name__ = made.__qualname__ = name
    made.__signature__ = declared  # pyright: ignore[reportAttributeAccessIssue]
    return made
