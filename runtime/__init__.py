"""A class becomes processes: the authoring API, the graph and its checks, the machine and what carries it out."""

from __future__ import annotations
