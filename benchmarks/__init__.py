"""What weft costs, as ratios against bare Python, bare forks and bare writes of the same minute."""

from __future__ import annotations
