"""Certified top-k of the gradient of a small network, by interval arithmetic and without sampling.

The forward pass encloses every layer's input for all points of the ball, the backward pass every
derivative: through an affine layer with weight W an interval of centre c and radius r becomes
(W c, abs(W) r); the derivative of a rectifier is 0, 1 or anything between where its input may have
either sign; the one of a maximum is 1 where a number is surely the largest of its window, 0 where
another surely is larger, else anything between. That holds for every point of the ball, with
certainty, and is loose: widths grow with each layer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Interval(NamedTuple):
    """All tensors between two."""

    lower: Tensor
    upper: Tensor

    def times(self, other: Interval) -> Interval:
        """All products of a number of one and a number of the other."""
        ends = torch.stack([a * b for a in self for b in other])
        return Interval(ends.amin(0), ends.amax(0))


class Layer(ABC):
    """One layer: where its output may lie, and where a gradient that passes it."""

    @abstractmethod
    def forward(self, box: Interval) -> Interval:
        """The output for all inputs of the box, which is remembered for :meth:`backward`."""

    @abstractmethod
    def backward(self, gradient: Interval) -> Interval:
        """The gradient with respect to the input, for all inputs of the box."""


class Affine(Layer):
    """A linear map and a shift; the same map with absolute weights moves the radius."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._weight = module.weight.detach().double()  # type: ignore[operator]
        bias = module.bias
        self._bias = None if bias is None else bias.detach().double()  # type: ignore[operator]
        self._shape: torch.Size | None = None

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer with another weight."""
        module = self._module
        if isinstance(module, nn.Linear):
            return F.linear(x, weight, bias)
        assert isinstance(module, nn.Conv2d)
        return F.conv2d(
            x, weight, bias, module.stride, module.padding, module.dilation, module.groups
        )

    def forward(self, box: Interval) -> Interval:
        """Centre and radius, each through its map."""
        centre, radius = (box.upper + box.lower) / 2, (box.upper - box.lower) / 2
        self._shape = centre.shape
        return self._around(centre, self.linear(radius, self._weight.abs()))

    def forward_l2(self, centre: Tensor, rho: float) -> Interval:
        """The exact range for an l2 ball: rho times the length of each output's weights."""
        self._shape = centre.shape
        squares = self.linear(torch.ones_like(centre[:1]), self._weight**2)
        return self._around(centre, rho * squares.sqrt())

    def _around(self, centre: Tensor, radius: Tensor) -> Interval:
        middle = self.linear(centre, self._weight, self._bias)
        return Interval(middle - radius, middle + radius)

    def backward(self, gradient: Interval) -> Interval:
        """The transposed maps."""
        centre, radius = (
            (gradient.upper + gradient.lower) / 2,
            (gradient.upper - gradient.lower) / 2,
        )
        middle, width = self._transposed(centre, 1), self._transposed(radius, -1)
        return Interval(middle - width, middle + width)

    def _transposed(self, y: Tensor, sign: int) -> Tensor:
        weight = self._weight if sign > 0 else self._weight.abs()
        assert self._shape is not None
        with torch.enable_grad():
            x = y.new_zeros((len(y), *self._shape[1:]), requires_grad=True)
            return torch.autograd.grad(self.linear(x, weight), x, y)[0]


class Monotone(Layer):
    """A rectifier or softplus: it and its derivative rise."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._box: Interval | None = None

    def forward(self, box: Interval) -> Interval:
        """The ends of the interval."""
        self._box = box
        lower, upper = self._module(box.lower), self._module(box.upper)
        if isinstance(self._module, nn.Softplus):
            # torch's falls at its threshold, from log(1 + exp(beta z)) / beta to z.
            edge = self._module.threshold / self._module.beta
            crosses = (box.lower <= edge) & (box.upper > edge)
            top = math.log1p(math.exp(-self._module.threshold)) / self._module.beta + edge
            lower = torch.where(crosses, lower.clamp(max=edge), lower)
            upper = torch.where(crosses, upper.clamp(min=top), upper)
        return Interval(lower, upper)

    def backward(self, gradient: Interval) -> Interval:
        """Times the derivatives at the ends, between which lie all others."""
        assert self._box is not None
        return gradient.times(Interval(*map(self._derivative, self._box)))

    def _derivative(self, z: Tensor) -> Tensor:
        if isinstance(self._module, nn.ReLU):
            return (z > 0).to(z)
        assert isinstance(self._module, nn.Softplus)
        scaled = self._module.beta * z
        return torch.where(scaled > self._module.threshold, 1.0, torch.sigmoid(scaled))


class Maximum(Layer):
    """Maximum pooling: which number of a window its gradient may go to."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        if module.ceil_mode or module.dilation not in (1, (1, 1)):
            raise TypeError("MaxPool2d with ceil_mode or dilation is not enclosed.")
        self._module = module
        self._sent: Interval | None = None
        self._shape: torch.Size | None = None

    def forward(self, box: Interval) -> Interval:
        """The maxima of the ends; and for each number of a window whether it is the largest."""
        self._shape = box.lower.shape
        low, high = (self._windows(end) for end in box)
        ends = F.pad(high, (0, 0, 0, 1), value=-torch.inf)
        first, second = ends.topk(2, dim=1).values.split(1, 1)
        # The largest upper end of the others: the second largest for the largest itself.
        rival = torch.where(high == first, second, first)
        self._sent = Interval((low > rival).to(low), (high >= low.amax(1, keepdim=True)).to(low))
        return Interval(*map(self._module, box))

    def backward(self, gradient: Interval) -> Interval:
        """To each number what each of its windows may send."""
        assert self._sent is not None
        rows = Interval(*(g.reshape(-1, 1, g.shape[2] * g.shape[3]) for g in gradient))
        return Interval(*map(self._folded, rows.times(self._sent)))

    def _windows(self, x: Tensor) -> Tensor:
        size = self._module.padding
        vertical, horizontal = size if isinstance(size, tuple) else (size, size)
        padded = F.pad(
            x.flatten(0, 1).unsqueeze(1), (horizontal, horizontal, vertical, vertical),
            value=-torch.inf,
        )  # fmt: skip
        self._padded = padded.shape[2:]
        self._margin = vertical, horizontal
        return F.unfold(padded, self._module.kernel_size, stride=self._module.stride)

    def _folded(self, rows: Tensor) -> Tensor:
        module = self._module
        whole = F.fold(rows, self._padded, module.kernel_size, stride=module.stride)
        assert self._shape is not None
        vertical, horizontal = self._margin
        height, width = self._shape[2:]
        inner = whole[..., vertical : vertical + height, horizontal : horizontal + width]
        return inner.reshape(self._shape)


class Increasing(Layer):
    """A linear layer without negative weights: it maps ends to ends."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._shape: torch.Size | None = None

    def forward(self, box: Interval) -> Interval:
        """The layer at the ends."""
        self._shape = box.lower.shape
        return Interval(*map(self._module, box))


class Mean(Increasing):
    """Average pooling."""

    def backward(self, gradient: Interval) -> Interval:
        """The transposed averages of the ends."""
        assert self._shape is not None
        with torch.enable_grad():
            x = gradient.lower.new_zeros(self._shape, requires_grad=True)
            y = self._module(x)
            ends = [torch.autograd.grad(y, x, end, retain_graph=True)[0] for end in gradient]
        return Interval(*ends)


class Reshaped(Increasing):
    """Flatten and its like."""

    def backward(self, gradient: Interval) -> Interval:
        """The same numbers."""
        assert self._shape is not None
        return Interval(*(end.reshape(self._shape) for end in gradient))


_LAYERS: dict[type[nn.Module], type[Layer]] = {
    nn.Linear: Affine,
    nn.Conv2d: Affine,
    nn.ReLU: Monotone,
    nn.Softplus: Monotone,
    nn.MaxPool2d: Maximum,
    nn.AvgPool2d: Mean,
    nn.AdaptiveAvgPool2d: Mean,
    nn.Flatten: Reshaped,
    nn.Unflatten: Reshaped,
    nn.Identity: Reshaped,
}


def enclosing_layers(model: nn.Module) -> list[Layer]:
    """The layers of a sequential model, as enclosures.

    Raises:
        TypeError: The model is not an ``nn.Sequential`` of supported layers.
    """
    if not _is_sequential(model):
        raise TypeError(
            f"model must be an nn.Sequential of layers, got {type(model).__name__}. Other networks "
            "are certified by sampling: certify_top_k."
        )
    layers: list[Layer] = []
    # Not named_children, which names a module that is used twice only once.
    for name, module in model._modules.items():
        assert module is not None
        if _is_sequential(module):
            layers += enclosing_layers(module)
        elif isinstance(module, (nn.Dropout, nn.Dropout2d)) and not module.training:
            continue
        elif type(module) in _LAYERS and getattr(module, "padding_mode", "zeros") == "zeros":
            layers.append(_LAYERS[type(module)](module))  # type: ignore[call-arg]
        else:
            known = ", ".join(sorted(kind.__name__ for kind in _LAYERS))
            raise TypeError(
                f"model: layer {name} ({type(module).__name__}) cannot be enclosed; {known} can. "
                "Other networks are certified by sampling: certify_top_k."
            )
    return layers


def _is_sequential(module: nn.Module) -> bool:
    """Whether its layers are all that it does: a subclass may do more."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def gradient_bounds(
    model: nn.Module,
    inputs: Tensor,
    radius: float,
    target: Tensor,
    *,
    ball: str = "linf",
    input_range: tuple[float, float] | None = None,
) -> Interval:
    """Bounds of the gradient at all points of a ball, and of an l-infinity ball within a range.

    Args:
        model: An ``nn.Sequential`` of convolutions, linear layers, ReLU, Softplus, pooling and
            changes of shape, in evaluation mode.
        inputs: (N, ...).
        radius: In units of the inputs.
        target: (N,) the classes that are explained.
        ball: "linf" or "l2".
        input_range: Smallest and largest value of an input; None: no bound.

    Returns:
        Lower and upper ends, of the shape of ``inputs``, float64.

    Example:
        >>> import torch
        >>> from captum_robust.certificates.intervals import gradient_bounds
        >>> model = torch.nn.Sequential(torch.nn.Softplus(), torch.nn.Flatten())
        >>> gradient_bounds(model, torch.zeros(1, 1), 1.0, torch.tensor([0]))
        Interval(lower=tensor([[0.2689]], dtype=torch.float64),
                 upper=tensor([[0.7311]], dtype=torch.float64))
    """
    layers, x = enclosing_layers(model), inputs.detach().double()
    with torch.no_grad():
        low, high = (-torch.inf, torch.inf) if input_range is None else input_range
        box = Interval((x - radius).clamp(low, high), (x + radius).clamp(low, high))
        # An l2 ball is followed as such up to the first affine layer, as a box from there on.
        centre = Interval(x, x) if ball == "l2" else None
        for layer in layers:
            new = layer.forward(box)
            if centre is not None and isinstance(layer, Affine):
                new, centre = _met(new, layer.forward_l2(centre.lower, radius)), None
            elif centre is not None:
                centre = layer.forward(centre) if isinstance(layer, Reshaped) else None
            box = new
        output = torch.zeros_like(box.lower)
        output.scatter_(1, target.view(-1, 1).to(output.device), 1.0)
        gradient = Interval(output, output)
        for layer in reversed(layers):
            gradient = layer.backward(gradient)
    return gradient


def _met(a: Interval, b: Interval) -> Interval:
    """What lies in both."""
    return Interval(torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper))
