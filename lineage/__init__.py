"""The record of what happened: events, the log they are committed to, and the views derived from it.

This floor knows nothing of flows being run. It imports neither `weft.runtime` nor `weft.cli`.
"""

from __future__ import annotations
