"""Array aliases and axis letters, the same everywhere.

`n` examples, `h` height, `w` width, `c` channels, `k` classes, `d` features.
"""

from typing import Any

from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

Images = Float[Array, "n h w c"]
Maps = Float[Array, "n rows columns d"]  # what becomes of images: other sides, other channels
RawImages = UInt8[Array, "n h w c"]
Labels = Int[Array, " n"]
Logits = Float[Array, "n k"]
Numbers = Float[Array, "n d"]
Targets = Labels | Float[Array, "n k"]  # classes, shares of classes that add up to 1, or numbers
PerExample = Float[Array, " n"]
Scalar = Float[Array, ""]
Key = PRNGKeyArray
Tree = Any
