"""Links to the reference of Python, PyTorch, Captum and TorchAttacks, without their inventories.

Intersphinx would fetch an inventory from each of them; a build must pass without a network, and
Captum has none. So the addresses are made here, from the rules that their sites follow.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PYTHON = "https://docs.python.org/3/library/"
TORCH = "https://docs.pytorch.org/docs/stable/"
CAPTUM = "https://captum.ai/api/"
TORCHATTACKS = "https://adversarial-attacks-pytorch.readthedocs.io/en/latest/attacks.html"

# Names that autodoc or a signature spells in another way than the site that documents them.
ALIASES = {
    "Tensor": "torch.Tensor",
    "nn.Module": "torch.nn.Module",
    "Module": "torch.nn.Module",
    "Generator": "torch.Generator",
    "Attribution": "captum.attr.Attribution",
    "Callable": "collections.abc.Callable",
    "Iterable": "collections.abc.Iterable",
    "Iterator": "collections.abc.Iterator",
    "Mapping": "collections.abc.Mapping",
    "Sequence": "collections.abc.Sequence",
    "Any": "typing.Any",
    "Path": "pathlib.Path",
    "PathLike": "os.PathLike",
    "ABC": "abc.ABC",
    "Attack": "torchattacks.attack.Attack",
    "Figure": "matplotlib.figure.Figure",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch._C.Generator": "torch.Generator",
}
# The page of Captum's site that documents a class or a function.
CAPTUM_PAGES = {
    "attr.Attribution": "attribution",
    "attr.GradientAttribution": "attribution",
    "attr.PerturbationAttribution": "attribution",
    "attr.DeepLift": "deep_lift",
    "attr.FeatureAblation": "feature_ablation",
    "attr.GradientShap": "gradient_shap",
    "attr.GuidedBackprop": "guided_backprop",
    "attr.GuidedGradCam": "guided_grad_cam",
    "attr.InputXGradient": "input_x_gradient",
    "attr.IntegratedGradients": "integrated_gradients",
    "attr.KernelShap": "kernel_shap",
    "attr.LRP": "lrp",
    "attr.LayerGradCam": "layer",
    "attr.Lime": "lime",
    "attr.NoiseTunnel": "noise_tunnel",
    "attr.Occlusion": "occlusion",
    "attr.Saliency": "saliency",
    "attr.ShapleyValueSampling": "shapley_value_sampling",
    "attr.visualization": "utilities",
    "metrics.infidelity": "metrics",
    "metrics.sensitivity_max": "metrics",
    "robust.AttackComparator": "robust",
    "robust.MinParamPerturbation": "robust",
}
TORCH_PAGES = {
    "torch.Tensor": "tensors.html#torch.Tensor",
    "torch.dtype": "tensor_attributes.html#torch.dtype",
    "torch.device": "tensor_attributes.html#torch.device",
    "torch.autograd.gradcheck": "generated/torch.autograd.gradcheck.gradcheck.html",
    "torch.optim.Optimizer": "optim.html#torch.optim.Optimizer",
    "torch.overrides.TorchFunctionMode": "torch.overrides.html",
    "torch.utils.data.DataLoader": "data.html#torch.utils.data.DataLoader",
}
_BUILT_IN = ("bool", "bytes", "dict", "float", "int", "list", "object", "set", "str", "tuple")


def address(name: str) -> str | None:
    """Where the name is documented; None where that is not known."""
    name = ALIASES.get(name, name)
    library, _, rest = name.partition(".")
    if name in _BUILT_IN:
        return f"{PYTHON}functions.html#{name}"
    if name.endswith(("Error", "Warning")) and "." not in name:
        return f"{PYTHON}exceptions.html#{name}"
    if name == "None":
        return f"{PYTHON}constants.html#None"
    if library in ("abc", "collections", "os", "pathlib", "typing"):
        return f"{PYTHON}{name.rpartition('.')[0]}.html#{name}"
    if library == "captum" and rest in CAPTUM_PAGES:
        anchor = "" if rest == "attr.visualization" else f"#{name}"
        return f"{CAPTUM}{CAPTUM_PAGES[rest]}.html{anchor}"
    if library == "captum":
        return CAPTUM
    if library == "torchattacks":
        return TORCHATTACKS
    if library == "torch":
        return TORCH + TORCH_PAGES.get(name, f"generated/{name}.html")
    return None


def link(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Turn a reference to a name of another library into a link."""
    if node.get("refdomain") != "py":
        return None
    uri = address(node["reftarget"])
    if uri is None:
        return None
    return nodes.reference("", "", contnode, internal=False, refuri=uri)


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to references that nothing in this documentation resolves."""
    app.connect("missing-reference", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
