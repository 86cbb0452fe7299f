"""docs/architectures.md, made from the table in the code: ``python -m intervention.architecture_table``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from intervention.architectures import SHARED, Architecture, Fired, known_architectures

_FIRES: dict[Fired, str] = {
    "gate": "the gate projection's output is positive",
    "gate_half": "the first half of the fused gate and up projection is positive",
    "gate_even": "the even places of the fused gate and up projection are positive",
    "input": "the down projection's input is positive",
}

_TEXT = """\
# Where each architecture keeps its neurons

Made from the code by `python -m intervention.architecture_table > docs/architectures.md`; a test fails when it is out
of date. Every row is tested on a tiny random model: identity, masked equals weights zeroed by hand, undo, generation
with cache, counts of `intervention.observe` against counts by hand, and the names on disk against a saved checkpoint.

A neuron is one coordinate of the input of an MLP's down projection. `{{i}}` stands for the layer, `{{e}}` for the
expert.

{table}

**Fires**: {fires}.

**Experts.** In transformers 5 all experts of a layer are slices of one 3-D parameter, and there is no down projection
to hook. `[E, out, in]` and `[E, in, out]` tell on which axis the neurons lie. `mode=zero`, and `mode=scale` with a
power of two, are folded into the slice; the rest acts through transformers' experts interface, in its grouped
implementation, and the model's own implementation comes back when the mask is taken off. Where the table says *weights
only*, the experts do not run through that interface: modes that cannot be folded are refused, and so is every mode on
quantised or offloaded weights. The result file's `mask_never_active_experts` counts masked experts that no token
reached.

**Multimodal models.** The language tower is meant; a vision tower is never touched.

**On disk**: the name that `save_pretrained` writes. Names in brackets are those of checkpoints published in another
form: without the head's prefix, or with a tower that `AutoModelForCausalLM` leaves out.

**Everything else is refused**, with one line that says so. Name the parts of another architecture yourself:

```python
from intervention.neurons import Architecture, register_neurons

# InternLM2: w2(act(w1 x) * w3 x)
register_neurons("internlm2", Architecture("model.layers", "feed_forward.w2", "feed_forward.w1", "gate"))
```

A wrong name cannot pass silently: each time a mask is applied it is proved, on the module itself, that it acts, and in
a forward pass that the module is called. Also refused: a gated MLP whose activation function is not positive exactly
where its argument is (whether a neuron fires could not be read from the gate), experts wrapped by an adapter, and
experts that a quantisation replaced by a module of its own (gpt-oss in MXFP4: load it dequantised).
"""


def render() -> str:
    """The page."""
    rows = sorted(_rows(), key=lambda row: row[0].lower())
    header = ("model_type", "MLP", "in memory", "weight", "fires", "on disk")
    lines = [header, tuple("---" for _ in header), *rows]
    fires = "; ".join(f"`{name}`, where {meaning}" for name, meaning in _FIRES.items())
    return _TEXT.format(table="\n".join(f"| {' | '.join(line)} |" for line in lines), fires=fires)


def _rows() -> Iterator[tuple[str, ...]]:
    alike: dict[Architecture, list[str]] = {}
    for model_type, architecture in known_architectures().items():
        alike.setdefault(architecture, []).append(model_type)
    for architecture, model_types in alike.items():
        names = ", ".join(sorted(model_types))
        place = f"{architecture.layers}.{{i}}"
        mixture = architecture.experts is not None
        if architecture.down:
            disk = architecture.names_on_disk(-1)
            kind = "dense layers" if mixture else "dense"
            yield (names, kind, f"`{place}.{architecture.down}`", "module", f"`{architecture.fired}`", _disk(disk))
        if architecture.experts:
            experts = architecture.experts
            layout = "`[E, out, in]`" if experts.axis == 1 else "`[E, in, out]`"
            layout += "" if experts.dispatched else ", weights only"
            disk = architecture.names_on_disk(-1, -2)
            yield (names, "experts", f"`{place}.{experts.module}.down_proj`", layout, f"`{experts.fired}`", _disk(disk))
        if architecture.shared:
            disk = architecture.names_on_disk(-1, SHARED)
            where = f"`{place}.{architecture.shared.down}`"
            yield (names, "shared expert", where, "module", f"`{architecture.shared.fired}`", _disk(disk))


def _disk(names: tuple[str, ...]) -> str:
    first, *others = (name.replace(".-1.", ".{i}.").replace(".-2.", ".{e}.") for name in names)
    return f"`{first}`" + "".join(f" (`{other}`)" for other in others)


if __name__ == "__main__":
    sys.stdout.write(render())
