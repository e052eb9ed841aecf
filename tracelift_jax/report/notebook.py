"""A report inside a notebook."""

import dataclasses
import html
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Embedded:
    """What a cell shows whose last line it is: the page of `tracelift report`, in a frame of its own.

    The whole page is in the notebook's output, since what serves a notebook need not serve its files (Colab does not).

    Attributes:
        path: the page.
        height: of the frame, in pixels.
    """

    path: str
    height: int = 800

    def _repr_html_(self) -> str:
        page = html.escape(Path(self.path).read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: {self.height}px; border: 0"></iframe>'
