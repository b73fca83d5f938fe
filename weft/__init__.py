"""weft: flows for data science whose record of what happened is the product."""

from __future__ import annotations
