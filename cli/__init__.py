"""Commands and output. Thin: everything shown here can be had from Python."""

from __future__ import annotations
