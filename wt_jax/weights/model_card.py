"""The model card of a folder of weights: what they are, how to use them, what to feed them, where they come from."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from wt_jax.config import ModelConfig
from wt_jax.models import build_encoder

NO_LICENCE = "not stated; ask whoever trained them"

_CARD = """---
library_name: wt_jax
pipeline_tag: feature-extraction
license: other
license_name: {licence_name}
tags: [video, jax, flax, {name}]
---

# {title}

A video encoder for wt_jax: `{name}`, {count:,} parameters, features of {dim} numbers.

## Use

```python
from pathlib import Path
from wt_jax.models import build_encoder
from wt_jax.weights.folder import load_encoder

config, variables = load_encoder(Path("THIS FOLDER"))
features = build_encoder(config).apply(variables, clips, False)  # clips (B, T, H, W, 3) -> (B, {dim}), float32
```

`weights.safetensors` can be read without wt_jax; its names are places in the network, kernels are stored (time, height,
width, in, out) or (in, out). To train from it: `--config.model.weights=THIS FOLDER {flags}`.

## Pre-processing

* RGB, float32 in [0, 1]; the encoder itself subtracts the mean {mean} and divides by the deviation {std}.
* Clips: {clip}.

## Origin

{origin}
{results}
## Licence of the weights

{licence}

## Configuration

```json
{config}
```
"""


def model_card(
    title: str,
    config: ModelConfig,
    *,
    parameters: int,
    clip: str,
    origin: Sequence[str],
    licence: str = "",
    results: Mapping[str, Mapping[str, float]] | None = None,
    run: Mapping | None = None,
) -> str:
    """The card as markdown.

    Args:
      title: the heading.
      config: of the encoder.
      parameters: how many it has.
      clip: the clips that it was trained on, in words.
      origin: facts about where it comes from, one per line.
      licence: of the weights; empty: the card states that there is none.
      results: scores by row and name, where there are any.
      run: the whole configuration of the run, where there is one; else the encoder's alone is shown.
    """
    fields = dataclasses.asdict(dataclasses.replace(config, weights=""))
    default = dataclasses.asdict(ModelConfig())
    flags = (f"--config.model.{k}={_flag(v)}" for k, v in fields.items() if k in ("name", "width") or v != default[k])
    return _CARD.format(
        title=title,
        name=config.name,
        count=parameters,
        dim=build_encoder(config).feature_dim,
        flags=" ".join(flags),
        mean=config.mean,
        std=config.std,
        clip=clip,
        origin="\n".join(f"* {line}" for line in origin),
        results=_table(results) if results else "",
        licence=f"{licence or NO_LICENCE}.",
        licence_name=json.dumps(licence or "not stated"),
        config=json.dumps(run or fields, indent=1),
    )


def _flag(value: object) -> str:
    text = str(value)
    return f"'{text}'" if " " in text else text


def _table(results: Mapping[str, Mapping[str, float]]) -> str:
    """The scores as a table of markdown, in the order of the file."""
    columns = list(dict.fromkeys(name for row in results.values() for name in row))
    lines = [f"| encoder | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for label, row in results.items():
        cells = (f"{row[name]:.3f}" if isinstance(row.get(name), int | float) else "" for name in columns)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n## Results\n\n" + "\n".join(lines) + "\n"
