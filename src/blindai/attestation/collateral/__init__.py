"""Endorsements (RFC 9334, section 8.2) for evidence that came without them: where they are asked for, and how kept.

Everything here is signed by Intel or AMD and judged again by every relying party, so that a service, a proxy or a
folder can withhold endorsements but not forge them.
"""

from __future__ import annotations
